"""Which card holds which process of a run, at its peak. Free of torch.

:class:`~alphagrpo.policy.memory.MemoryEstimate` counts what must be there; on top of that comes
working space, of which the two largest parts are taken from measurements (docs/speed.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alphagrpo.config import RunConfig
from alphagrpo.policy.family import PolicyShape
from alphagrpo.policy.memory import (
    MASTER_BYTES,
    MemoryEstimate,
    ModelSize,
    largest_slice,
    memory_estimate,
)

ACTIVATION_FACTOR = 1.6
"""What a replay held on an H200, over the activations counted: 1.5 (drawing) and 1.6 (refining).
Adapters' temporaries, and keys and values repeated to all heads.
"""
DECODE_BYTES = 4600
"""Per pixel that is decoded at once, and what denoising leaves behind: 17 GB for 14 pictures."""
ROOM = 0.9
"""Share of a card that may be used without the allocator having to give back and try again."""
SHARDED_RANKS = (1, 4, 8)
"""Numbers of ranks that are told where the experts train: a card, half a machine, a machine."""

SHARED_CARD = "shared card"
Verdict = Literal["fits", "tight", "does not fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One process on one card."""

    name: str
    peak_bytes: float
    configured: bool = True
    """Whether it is the run's own; others show what more ranks would do."""

    def verdict(self, card_bytes: float) -> Verdict:
        """Whether a card of so many bytes holds it; ``tight`` needs most of the last tenth."""
        if self.peak_bytes > card_bytes:
            return "does not fit"
        return "fits" if self.peak_bytes <= ROOM * card_bytes else "tight"


def cases(config: RunConfig, shape: PolicyShape, size: ModelSize) -> list[Case]:
    """The run's own processes, and others to compare: shared cards, and numbers of ranks that share
    the experts out.
    """

    def learner(run: RunConfig, ranks: int, *, configured: bool) -> Case:
        run = _with_ranks(run, ranks)
        return learner_case(run, memory_estimate(run, shape, size), ranks, configured=configured)

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


def runner_case(config: RunConfig, estimate: MemoryEstimate) -> Case:
    """A runner that only draws. Weights on their way to it are in main memory."""
    adapters = estimate.trainable * MASTER_BYTES if config.model.trainable == "lora" else 0
    held = estimate.weights + adapters + estimate.context_per_group
    return Case(name="runner", peak_bytes=held + _decoding(config))


def learner_case(
    config: RunConfig, estimate: MemoryEstimate, ranks: int, *, configured: bool = True
) -> Case:
    """A rank of ``ranks``; with shared cards one that draws too, but never while it learns."""
    replay = ACTIVATION_FACTOR * estimate.activations
    if config.learner.placement == "runners":
        held = estimate.shared - estimate.activations
        name, peak_bytes = SHARED_CARD, held + max(replay, _decoding(config))
    else:
        name, peak_bytes = "learner", estimate.learner - estimate.activations + replay
    name = name if ranks == 1 else f"{name}, 1 of {ranks}"
    return Case(name=name, peak_bytes=peak_bytes, configured=configured)


def _decoding(config: RunConfig) -> float:
    return largest_slice(config) * config.task.height * config.task.width * DECODE_BYTES


def _with_ranks(config: RunConfig, ranks: int) -> RunConfig:
    """The config with another number of ranks, wherever they are."""
    if config.learner.placement == "runners":
        rollout = config.rollout.model_copy(update={"num_runners": ranks})
        return config.model_copy(update={"rollout": rollout})
    learner = config.learner.model_copy(update={"ranks": ranks})
    return config.model_copy(update={"learner": learner})
