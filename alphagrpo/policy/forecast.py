"""How long a step takes on given cards: the stages, their bound, and the whole schedule.

The step is played through with groups of equal cost (docs/speed.md): runners take slices in prompt
order, judges answer in the order of arrival, ranks learn what is ready. Free of torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from alphagrpo.config import RunConfig
from alphagrpo.policy.cards import Card
from alphagrpo.policy.family import PolicyShape
from alphagrpo.policy.memory import MASTER_BYTES, ModelSize, num_ranks
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
            ranks=num_ranks(config),
            judges=judges,
            slices=min(rollout.slices, rollout.group_size),
            shared=learner.placement == "runners",
            streamed=learner.streamed,
            max_lag=rollout.max_lag,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One role's part of a step."""

    work_s: float
    """W: seconds of one card or judge that all of it takes."""
    busiest_s: float
    """Seconds of the one that has most of it; with lag, its share of a step of many."""
    processes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A step's time, in seconds."""

    stages: dict[str, Stage]
    """``draw``, ``verify``, ``learn``; with shared cards ``draw and learn`` and ``verify``."""
    draw_work_s: float
    learn_work_s: float
    sync_s: float
    """Optimizer, and weights on their way to the runners."""
    idle_runners: int
    """That have nothing to draw in a step."""
    step_s: float
    """T."""

    @property
    def bound_s(self) -> float:
        """T*: no order of the work is quicker than its longest stage."""
        return max(stage.busiest_s for stage in self.stages.values())

    @property
    def efficiency(self) -> float:
        """eta = T* / T."""
        return self.bound_s / self.step_s

    def busy(self, name: str) -> float:
        """Share of the step in which a stage's processes work, on average."""
        stage = self.stages[name]
        return stage.work_s / (stage.processes * self.step_s)


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

        @cache
        def work(samples: int) -> GroupWork:
            return group_work(config, shape, size, samples=samples, thought_tokens=thought_tokens)

        self.work = work
        """The work of so many samples of a prompt."""

    def forecast(self, mesh: Mesh) -> Forecast:
        """Play a step through on ``mesh``."""
        schedule = _Schedule(self, mesh)
        latency_s = schedule.finish_s() + schedule.sync_s
        stages = schedule.stages()
        # As many steps as lag allows, and the newest one, are under way at the same time.
        step_s = max(latency_s / (1 + mesh.max_lag), *(s.busiest_s for s in stages.values()))
        return Forecast(
            stages=stages,
            draw_work_s=sum(schedule.draws),
            learn_work_s=sum(schedule.learns),
            sync_s=schedule.sync_s,
            idle_runners=max(0, mesh.runners - len(schedule.draws)),
            step_s=step_s,
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
        self.sync_s = model.sync_s(mesh)

    def finish_s(self) -> float:
        """When the last gradient of the step is there."""
        drawn, drawers, free = _assign(self.draws, [0.0] * self._mesh.runners)
        ready = self._ready(drawn)
        if self._mesh.shared:
            # A card draws all of its part before it learns: verdicts come meanwhile.
            for learn_s, ready_s, card in zip(self.learns, ready, drawers, strict=True):
                free[card] = max(free[card], ready_s) + learn_s
            return max(free)
        return max(_assign(self.learns, [0.0] * self._mesh.ranks, ready)[0])

    def stages(self) -> dict[str, Stage]:
        """Work, and the part of the busiest."""
        mesh, learning = self._mesh, sum(self.learns)
        drawing = self._stage(self.draws, mesh.runners)
        judging = Stage(
            work_s=sum(self._verdicts) * (mesh.judges or 0),
            busiest_s=sum(self._verdicts),
            processes=mesh.judges or 1,
        )
        if mesh.shared:
            both = self._stage(
                [a + b for a, b in zip(self.draws, self.learns, strict=True)], mesh.runners
            )
            return {"draw and learn": both, "verify": judging}
        ends = _assign(self.learns, [0.0] * mesh.ranks)[0]
        learn = Stage(work_s=learning, busiest_s=max(ends), processes=mesh.ranks)
        return {"draw": drawing, "verify": judging, "learn": learn}

    def _stage(self, costs: list[float], processes: int) -> Stage:
        """Of runners. With lag they go on to the next step's groups, as many steps as may be."""
        steps = 1 + self._mesh.max_lag
        ends = _assign(costs * steps, [0.0] * processes)[0]
        return Stage(work_s=sum(costs), busiest_s=max(ends) / steps, processes=processes)

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
        # Gradients are summed in prompt order: no block overtakes an earlier one.
        in_order = list(accumulate(whole, max))
        return [in_order[i // block] for i in range(len(judged))]

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


def _assign(
    costs: Sequence[float], free: list[float], ready: Sequence[float] | None = None
) -> tuple[list[float], list[int], list[float]]:
    """Give each piece of work, in order, to the process that is free first.

    Returns when each piece ends, who does it, and when each process is free again.
    """
    free, ends, workers = list(free), [], []
    for index, cost in enumerate(costs):
        worker = min(range(len(free)), key=free.__getitem__)
        start = free[worker] if ready is None else max(free[worker], ready[index])
        free[worker] = start + cost
        ends.append(free[worker])
        workers.append(worker)
    return ends, workers, free
