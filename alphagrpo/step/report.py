"""What is told of a step: of one that was learnt from, and of one that came to nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alphagrpo.ports import GroupReport
from alphagrpo.step.metrics import step_metrics, turn_metrics
from alphagrpo.turns import SkippedTurn

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.step.drawing import StepDrawing
    from alphagrpo.step.times import StepClock
    from alphagrpo.training import GroupWeights, UpdateReport
    from alphagrpo.turns import Visit


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step did: every group it sampled, and its figures."""

    step: int
    """Steps of the loop so far, this one included."""
    version: int
    """The weights published at its end."""
    groups: tuple[GroupReport, ...]
    """In prompt order; dropped ones included."""
    training: tuple[GroupWeights | None, ...]
    """What was trained on of each group; None of dropped ones."""
    metrics: Mapping[str, float]
    """``area/name`` to value."""
    skipped: tuple[SkippedTurn, ...] = ()
    """Turns between those of the groups that gave none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntStep:
    """A step whose optimizer step is taken; its weights may not be published yet."""

    drawing: StepDrawing
    groups: Sequence[GroupReport]
    training: tuple[GroupWeights | None, ...]
    update: UpdateReport
    clock: StepClock

    def metrics(self, dropped: Sequence[Visit], config: RunConfig) -> dict[str, float]:
        """The step's figures; ``dropped`` are the turns whose groups were not trained on."""
        usable = [
            group
            for group, training in zip(self.groups, self.training, strict=True)
            if training is not None
        ]
        metrics = step_metrics(self.drawing.in_order(), usable, self.update, self.clock, config)
        turns = turn_metrics(self.drawing.skipped, dropped)
        return {**metrics, **turns, **self.update.metrics}

    def report(self, step: int, version: int, metrics: Mapping[str, float]) -> StepReport:
        """Its report as step ``step``, whose end weights ``version`` are."""
        return StepReport(
            step=step,
            version=version,
            # The bytes behind the references have been trained on and may go.
            groups=tuple(without_references(group) for group in self.groups),
            training=self.training,
            metrics=metrics,
            skipped=tuple(self.drawing.skipped),
        )


def failed_report(step: int, version: int, drawing: StepDrawing) -> StepReport:
    """Of a step that came to nothing: the groups that had arrived, none of them trained on.

    ``version`` are the weights there were.
    """
    groups = tuple(without_references(arrival.report) for arrival in drawing.in_order())
    return StepReport(
        step=step,
        version=version,
        groups=groups,
        training=(None,) * len(groups),
        metrics={},
        skipped=tuple(drawing.skipped),
    )


def without_references(report: GroupReport) -> GroupReport:
    """The report of a group whose bytes are not needed any more."""
    return replace(report, reference=None, slices=(), draft_slices=())
