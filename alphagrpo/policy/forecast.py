"""How long a step takes on given cards: the stages, their bound, and the whole schedule.

The step is played through with groups of equal cost (docs/speed.md): runners take slices in prompt
order, judges answer in the order of arrival, ranks learn what is ready. Free of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from alphagrpo.config import RunConfig
from alphagrpo.policy.cards import Card
from alphagrpo.policy.family import PolicyShape
from alphagrpo.policy.fit import recomputed_layers
from alphagrpo.policy.memory import MASTER_BYTES, ModelSize
from alphagrpo.policy.timing import (
    QUESTIONS_PER_S,
    THOUGHT_TOKENS,
    GroupWork,
    group_work,
    questions_per_picture,
)

OPTIMIZER_S = 1.05e-9
"""Of an optimizer step, per trained weight of a rank: 0.17 s for 161.5 million on an H200."""
MOVE_S = 0.8e-9
"""Per byte of weights, published to applied: 0.25 s for 323 MB, one runner, on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """Who shares a step's work, and how."""

    runners: int
    ranks: int
    """Of the learner. With :attr:`shared` these are the runners."""
    judges: float | None
    """GPUs of the verifier; None where they are not known, and verdicts then cost no time."""
    slices: int = 1
    """Batches that a group's samples are drawn in."""
    shared: bool = False
    """Whether every runner learns what it drew."""
    streamed: bool = True
    max_lag: int = 0

    @classmethod
    def of(cls, config: RunConfig, judges: float | None) -> Mesh:
        """The mesh of a run config, with the judges that its Serve file places."""
        rollout, learner = config.rollout, config.learner
        return cls(
            runners=rollout.num_runners,
            ranks=config.num_ranks,
            judges=judges,
            slices=rollout.slices,
            shared=learner.placement == "runners",
            streamed=learner.streamed,
            max_lag=rollout.max_lag,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One role's part of a step."""

    work_s: float
    """W: seconds of one process that all of it takes."""
    processes: float
    busiest_s: float
    """Seconds of the process that has most of it; with lag, of its share of several steps."""

    @property
    def even_s(self) -> float:
        """Seconds of each process if all had the same share."""
        return self.work_s / self.processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A step's time, in seconds."""

    stages: dict[str, Stage]
    """``draw``, ``verify`` and ``learn``; ``shared`` is drawing and learning on shared cards."""
    draw_work_s: float
    learn_work_s: float
    sync_s: float
    """Optimizer, and weights on their way to the runners."""
    step_s: float
    """T."""

    @property
    def bound_s(self) -> float:
        """T*: the longest stage, its work spread evenly; no order of the work is quicker."""
        return max(stage.even_s for stage in self.stages.values())

    @property
    def efficiency(self) -> float:
        """eta = T* / T."""
        return self.bound_s / self.step_s

    def busy(self, name: str) -> float:
        """Share of the step in which a stage's processes work, on average."""
        return self.stages[name].even_s / self.step_s


class StepModel:
    """What a step of a run costs on one kind of card; :meth:`forecast` for any number of them.

    Example::

        shape, size = model_size(config)
        StepModel(config, shape, size, H200).forecast(Mesh.of(config, judges=2)).step_s
    """

    def __init__(
        self,
        config: RunConfig,
        shape: PolicyShape,
        size: ModelSize,
        card: Card,
        *,
        thought_tokens: int = THOUGHT_TOKENS,
    ) -> None:
        self.config, self.card = config, card
        self.thought_tokens = min(thought_tokens, config.task.max_think_tokens)
        self._trainable = (
            size.lora
            if config.model.trainable == "lora"
            else size.understanding + size.generation
        )  # fmt: skip

        layers = recomputed_layers(config, shape, size, card.memory_bytes)

        @cache
        def work(samples: int) -> GroupWork:
            return group_work(
                config,
                shape,
                size,
                samples=samples,
                thought_tokens=thought_tokens,
                recomputed=layers / shape.num_layers,
            )

        self.work = work
        """The work of so many samples of a prompt."""

    def forecast(self, mesh: Mesh) -> Forecast:
        """Play a step through on ``mesh``."""
        schedule = _Schedule(self, mesh)
        stages, sync_s = schedule.stages(), self.sync_s(mesh)
        # As many steps as lag allows, and the newest one, are under way at the same time.
        latency_s = (schedule.finish_s() + sync_s) / (1 + mesh.max_lag)
        return Forecast(
            stages=stages,
            draw_work_s=sum(schedule.draws),
            learn_work_s=sum(schedule.learns),
            sync_s=sync_s,
            step_s=max(latency_s, *(stage.busiest_s for stage in stages.values())),
        )

    def verdict_s(self, samples: int, judges: float | None) -> float:
        """Seconds that all judges together take for the pictures of so many samples."""
        if not judges:
            return 0.0
        questions = self.work(samples).pictures * questions_per_picture(self.config)
        return questions / (QUESTIONS_PER_S * judges)

    def sync_s(self, mesh: Mesh) -> float:
        """Optimizer step, and new weights published and pulled; shared cards pull nothing."""
        sharded = self.config.model.trainable == "experts"
        own = self._trainable / (mesh.ranks if sharded else 1)
        moved = 0 if mesh.shared else self._trainable * MASTER_BYTES
        return own * OPTIMIZER_S + moved * MOVE_S


class _Schedule:
    """One step, slice by slice in prompt order."""

    def __init__(self, model: StepModel, mesh: Mesh) -> None:
        self._model, self._mesh = model, mesh
        rollout, learner = model.config.rollout, model.config.learner
        samples = _parts(rollout.group_size, mesh.slices) * rollout.prompts_per_step
        work, card = model.work, model.card
        draw_share = _share_of_card(rollout.gpus_per_runner)
        learn_share = draw_share if mesh.shared else _share_of_card(learner.gpus)
        self.draws = [work(n).draw_s(card) / draw_share for n in samples]
        self.learns = [work(n).learn_s(card) / learn_share for n in samples]
        self._verdicts = [model.verdict_s(n, mesh.judges) for n in samples]

    def finish_s(self) -> float:
        """When the last gradient of the step is there."""
        runners, free = _deal(self.draws, self._mesh.runners)
        drawn = _ends(self.draws, runners, [0.0] * len(free))
        if self._mesh.shared:
            # A card draws all of its part before it learns: verdicts come meanwhile.
            ranks = runners
        else:
            ranks, loads = _deal(self.learns, self._mesh.ranks)
            free = [0.0] * len(loads)
        return max(_ends(self.learns, ranks, free, self._ready(drawn)))

    def stages(self) -> dict[str, Stage]:
        """Work, and the part of the busiest."""
        mesh = self._mesh
        verify = Stage(
            work_s=sum(self._verdicts) * (mesh.judges or 1),
            processes=mesh.judges or 1,
            busiest_s=sum(self._verdicts),
        )
        if mesh.shared:
            both = [draw + learn for draw, learn in zip(self.draws, self.learns, strict=True)]
            return {"shared": _stage(both, mesh.runners), "verify": verify}
        # With lag runners go on to the next step's groups; one update never overlaps another.
        return {
            "draw": _stage(self.draws, mesh.runners, 1 + mesh.max_lag),
            "verify": verify,
            "learn": _stage(self.learns, mesh.ranks),
        }

    def _ready(self, drawn: Sequence[float]) -> list[float]:
        """When each slice may be learnt: with the last reward of its block, or of the step."""
        judged, now = [0.0] * len(drawn), 0.0
        for index in sorted(range(len(drawn)), key=drawn.__getitem__):
            now = max(now, drawn[index]) + self._verdicts[index]
            judged[index] = now
        if not self._mesh.streamed:
            return [max(judged)] * len(judged)
        block = self._block_prompts() * self._mesh.slices
        whole = [max(judged[i : i + block]) for i in range(0, len(judged), block)]
        return [whole[i // block] for i in range(len(judged))]

    def _block_prompts(self) -> int:
        """Prompts whose advantages are computed together."""
        algorithm = self._model.config.algorithm
        if algorithm.advantage_std == "group":
            return 1
        return algorithm.advantage_prompts or self._model.config.rollout.prompts_per_step


def _parts(samples: int, slices: int) -> list[int]:
    """Sizes of the slices of a group: as equal as can be."""
    each, rest = divmod(samples, slices)
    return [each + (i < rest) for i in range(slices)]


def _share_of_card(gpus: float) -> float:
    """A process that reserves half a card has half of its speed; none said, a card is meant."""
    return min(gpus, 1.0) or 1.0


def _stage(costs: Sequence[float], processes: int, steps: int = 1) -> Stage:
    """The stage of ``processes`` that share the work of ``steps`` steps like these ``costs``."""
    _, loads = _deal(list(costs) * steps, processes)
    return Stage(work_s=sum(costs), processes=processes, busiest_s=max(loads) / steps)


def _deal(costs: Sequence[float], processes: int) -> tuple[list[int], list[float]]:
    """Each piece of work, in order, to the process with least to do so far.

    Returns whose each piece is, and what each process has to do.
    """
    owners, loads = [], [0.0] * processes
    for cost in costs:
        owner = min(range(processes), key=loads.__getitem__)
        loads[owner] += cost
        owners.append(owner)
    return owners, loads


def _ends(
    costs: Sequence[float],
    owners: Sequence[int],
    free: Sequence[float],
    ready: Sequence[float] | None = None,
) -> list[float]:
    """When each piece of work ends; ``free`` is when each process may begin, ``ready`` each piece.

    A process takes its pieces in order.
    """
    now, ends = list(free), []
    for index, (cost, owner) in enumerate(zip(costs, owners, strict=True)):
        now[owner] = max(now[owner], ready[index] if ready else 0.0) + cost
        ends.append(now[owner])
    return ends
