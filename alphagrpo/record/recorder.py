"""What a run writes down of itself: each step as it ends, and the summary of them all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from alphagrpo.eval.figures import differences, summarise
from alphagrpo.record.ledger import row_of_skipped
from alphagrpo.record.pace import step_pace
from alphagrpo.record.summary import (
    EvaluationSummary,
    PublishedWeights,
    RunSummary,
    sample_counts,
    stage_seconds,
    step0_parity,
    trained_s,
    turn_counts,
)
from alphagrpo.record.verdicts import KEPT_VERDICTS, forget_verdicts

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.loop import StepReport
    from alphagrpo.record.folder import RunFolder
    from alphagrpo.types import WeightsManifest


class Recorder:
    """Writes one run's steps and summary into its folder.

    Totals are sums over ``metrics.jsonl``, so a resumed run's summary covers all of its parts.
    """

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self.folder, self._config = folder, config
        self._last_step = max((line["step"] for line in folder.metrics()), default=0)

    def record_step(self, report: StepReport, extra: Mapping[str, float] | None = None) -> None:
        """The step's ledger, kept pictures and line of metrics (``extra`` figures included).

        A step that comes again (its learner died and was restored) replaces what was written of it
        and of those after it.
        """
        if report.step <= self._last_step:
            self.folder.rewind(report.step - 1)
        self._last_step = report.step
        self._write_ledger(report)
        figures = {key: _finite(value) for key, value in report.metrics.items()}
        figures |= {"weights/version": report.version, **(extra or {})}
        self.folder.append_metrics(report.step, figures)
        forget_verdicts(self.folder.path / KEPT_VERDICTS, report.step)

    def record_failed(self, report: StepReport) -> None:
        """The ledger of a step that ended the run, as far as it is known: what was skipped, and the
        groups that had arrived, none trained on. It has no line of metrics, and is replaced when
        the step is taken again.
        """
        if report.groups or report.skipped:
            self._write_ledger(report)

    def _write_ledger(self, report: StepReport) -> None:
        skipped = [row_of_skipped(report.step, self._config.name, turn) for turn in report.skipped]
        self.folder.record_step(report.step, report.groups, report.training, skipped)

    def earlier_wall_s(self) -> float:
        """Seconds that earlier parts of a resumed run took, as their summary says."""
        return self.folder.summary().wall_s or 0.0

    def summary(
        self,
        *,
        wall_s: float,
        weights: WeightsManifest | None,
        set_aside: Mapping[str, str] | None = None,
        memory: Mapping[str, float] | None = None,
        stopped_by: str | None = None,
    ) -> RunSummary:
        """The figures of the run so far."""
        metrics = self.folder.metrics()
        before, after = self.folder.evaluation("before"), self.folder.evaluation("after")
        return RunSummary(
            run=self._config.name,
            steps=int(metrics[-1]["step"]) if metrics else 0,
            wall_s=round(wall_s, 3),
            training_s=round(trained_s(metrics), 3),
            evaluation=EvaluationSummary(
                before=summarise(before),
                after=summarise(after),
                difference=differences(before, after),
            ),
            samples=sample_counts(metrics),
            time=stage_seconds(metrics),
            pace=step_pace(metrics, self._config.rollout.max_lag),
            parity=step0_parity(metrics),
            weights=PublishedWeights(
                version=weights.version if weights else None,
                checksum=weights.checksum if weights else None,
            ),
            prompts_set_aside=dict(set_aside or {}),
            turns=turn_counts(metrics),
            memory=dict(memory) if memory else None,
            stopped_by=stopped_by,
        )


def _finite(value: float) -> float | None:
    """JSON has no NaN; a figure that could not be had is null."""
    return value if math.isfinite(value) else None
