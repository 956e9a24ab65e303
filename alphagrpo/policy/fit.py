"""Which card holds which process of a run, at its peak, and what makes one fit. Free of torch.

:class:`~alphagrpo.policy.memory.MemoryEstimate` counts what a process has; docs/speed.md compares
it with what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alphagrpo.config import RunConfig
from alphagrpo.policy.family import PolicyShape
from alphagrpo.policy.memory import MASTER_BYTES, MemoryEstimate, ModelSize, memory_estimate
from alphagrpo.policy.working import AS_IT_IS, Handling

LIBRARIES_BYTES = 0.9e9
"""Work spaces of kernel libraries and small tensors: what drawing held on an H200 beyond all that
is counted."""
ROOM = 0.88
"""Share of a card that may be used without the allocator having to give back and try again: it had
reserved 86.4 GB where 76.8 were allocated.
"""
SHARDED_RANKS = (1, 4, 8)
"""Numbers of ranks that are told where the experts train: a card, half a machine, a machine."""

SHARED_CARD = "shared card"
Process = Literal["runner", "learner"]
Verdict = Literal["fits", "tight", "does not fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One process on one card."""

    name: str
    peak_bytes: float
    """With as many layers recomputed as the config admits."""
    configured: bool = True
    """Whether it is the run's own; others show what more ranks would do."""
    recomputed: tuple[tuple[float, int], ...] = ()
    """Where a budget decides: layers that are recomputed, by bytes of the card."""

    def verdict(self, card_bytes: float) -> Verdict:
        """Whether a card of so many bytes holds it; ``tight`` needs the allocator's room."""
        if self.peak_bytes > card_bytes:
            return "does not fit"
        return "fits" if self.peak_bytes <= ROOM * card_bytes else "tight"


def cases(
    config: RunConfig, shape: PolicyShape, size: ModelSize, card_sizes: Sequence[float] = ()
) -> list[Case]:
    """The run's own processes, and others to compare: shared cards, and numbers of ranks that share
    the experts out. ``card_sizes``, in bytes, are those that budgets are looked at for.
    """

    def learner(run: RunConfig, ranks: int, *, configured: bool) -> Case:
        return learner_case(_with_ranks(run, ranks), shape, size, card_sizes, configured=configured)

    ranks = config.num_ranks
    others = {ranks, *SHARDED_RANKS} if config.model.trainable == "experts" else {ranks}
    found = [learner(config, number, configured=number == ranks) for number in sorted(others)]
    if config.learner.placement == "runners":
        return found
    sharing = config.learner.model_copy(update={"placement": "runners"})
    return [
        runner_case(config, memory_estimate(config, shape, size)),
        *found,
        learner(
            config.model_copy(update={"learner": sharing}),
            config.rollout.num_runners + ranks,
            configured=False,
        ),
    ]


def process_case(config: RunConfig, shape: PolicyShape, size: ModelSize, process: Process) -> Case:
    """The run's own process of a kind, as it is at its least."""
    if process == "runner" and not config.learner.on_runners:
        return runner_case(config, memory_estimate(config, shape, size))
    return learner_case(config, shape, size)


def runner_case(config: RunConfig, estimate: MemoryEstimate) -> Case:
    """A runner that only draws. Weights on their way to it are in main memory."""
    adapters = estimate.trainable * MASTER_BYTES if config.model.trainable == "lora" else 0
    held = estimate.weights + adapters + estimate.lowered + estimate.drawing.peak
    return Case(name="runner", peak_bytes=held + LIBRARIES_BYTES)


def learner_case(
    config: RunConfig,
    shape: PolicyShape,
    size: ModelSize,
    card_sizes: Sequence[float] = (),
    *,
    configured: bool = True,
) -> Case:
    """A rank of the config; with shared cards one that draws too, but never while it learns."""
    name, ranks = SHARED_CARD if config.learner.on_runners else "learner", config.num_ranks
    budgeted = config.learner.recompute not in ("none", "all")
    return Case(
        name=name if ranks == 1 else f"{name}, 1 of {ranks}",
        peak_bytes=learner_peak(config, shape, size),
        configured=configured,
        recomputed=tuple(
            (card_bytes, recomputed_layers(config, shape, size, card_bytes))
            for card_bytes in card_sizes
            if budgeted
        ),
    )


def learner_peak(
    config: RunConfig,
    shape: PolicyShape,
    size: ModelSize,
    recomputed: int | None = None,
    handling: Handling = AS_IT_IS,
) -> float:
    """Bytes of a rank at its peak; ``recomputed`` as in
    :func:`~alphagrpo.policy.memory.memory_estimate`.
    """
    estimate = memory_estimate(config, shape, size, recomputed=recomputed, handling=handling)
    held = estimate.shared if config.learner.on_runners else estimate.learner
    return held + LIBRARIES_BYTES


def recomputed_layers(
    config: RunConfig, shape: PolicyShape, size: ModelSize, card_bytes: float
) -> int:
    """How many layers a rank on a card of so many bytes recomputes, as ``learner.recompute`` says.

    With a budget the fewest that fit it, and all where even they do not.
    """
    setting, layers = config.learner.recompute, shape.num_layers
    if isinstance(setting, str) and setting != "auto":
        return 0 if setting == "none" else layers
    budget = ROOM * card_bytes if setting == "auto" else float(setting) * 1e9
    for number in range(layers):
        if learner_peak(config, shape, size, number) <= budget:
            return number
    return layers


def settings_for_room(config: RunConfig, process: Process) -> str:
    """The settings that make a process of a kind smaller."""
    found = ["raise rollout.slices", "lower rollout.group_size"]
    if process == "runner":
        found.append("lower evaluation.batch_size")
    else:
        if config.learner.recompute != "all":
            found.insert(0, "set learner.recompute to all")
        if config.model.trainable == "experts":
            on_runners = config.learner.on_runners
            found.insert(0, f"raise {'rollout.num_runners' if on_runners else 'learner.ranks'}")
    return ", ".join(found[:-1]) + f" or {found[-1]}"


def _with_ranks(config: RunConfig, ranks: int) -> RunConfig:
    """The config with another number of ranks, wherever they are."""
    if config.learner.placement == "runners":
        rollout = config.rollout.model_copy(update={"num_runners": ranks})
        return config.model_copy(update={"rollout": rollout})
    learner = config.learner.model_copy(update={"ranks": ranks})
    return config.model_copy(update={"learner": learner})
