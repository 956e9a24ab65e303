"""What a run writes down of itself: each step as it ends, and the summary of them all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alphagrpo.eval.heldout import differences, summarise

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.loop import StepReport
    from alphagrpo.record.folder import RunFolder
    from alphagrpo.types import WeightsManifest

SAMPLES = ("drawn", "scored", "invalid", "trained")
TIMES = ("rollout_s", "verify_wait_s", "learn_s", "sync_s")
LOG_RATIOS = ("parity/image_max_abs_log_ratio", "parity/text_max_abs_log_ratio")


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
        self.folder.record_step(report.step, report.groups, report.training)
        figures = {key: _finite(value) for key, value in report.metrics.items()}
        figures |= {"weights/version": report.version, **(extra or {})}
        self.folder.append_metrics(report.step, figures)

    def earlier_wall_s(self) -> float:
        """Seconds that earlier parts of a resumed run took, as their summary says."""
        return float(self.folder.summary().get("wall_s") or 0.0)

    def summary(
        self,
        *,
        wall_s: float,
        weights: WeightsManifest | None,
        set_aside: Mapping[str, str] | None = None,
        memory: Mapping[str, float] | None = None,
        stopped_by: str | None = None,
    ) -> dict[str, Any]:
        """The document that ``summary.json`` holds."""
        metrics = self.folder.metrics()
        before, after = self.folder.evaluation("before"), self.folder.evaluation("after")
        return {
            "run": self._config.name,
            "steps": int(metrics[-1]["step"]) if metrics else 0,
            "wall_s": round(wall_s, 3),
            "training_s": round(_total(metrics, "time/step_s"), 3),
            "evaluation": {
                "before": summarise(before),
                "after": summarise(after),
                "difference": differences(before, after),
            },
            "samples": {name: int(_total(metrics, f"samples/{name}")) for name in SAMPLES},
            "time": {name: round(_total(metrics, f"time/{name}"), 3) for name in TIMES},
            "parity": step0_parity(metrics),
            "weights": {
                "version": weights.version if weights else None,
                "checksum": weights.checksum if weights else None,
            },
            "prompts_set_aside": dict(set_aside or {}),
            "memory": dict(memory) if memory else None,
            "stopped_by": stopped_by,
        }


def step0_parity(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Largest |log ratio| of the first update: of the picture, of the thought, and of both.

    Steps before it that taught nothing (equal rewards in every group) have none.
    """
    first = next((line for line in metrics if any(key in line for key in LOG_RATIOS)), {})
    image, text = (first.get(key) for key in LOG_RATIOS)
    known = [value for value in (image, text) if value is not None]
    return {
        "max_abs_log_ratio_step0": max(known) if known else None,
        "image_max_abs_log_ratio_step0": image,
        "text_max_abs_log_ratio_step0": text,
    }


def _total(metrics: Sequence[Mapping[str, Any]], key: str) -> float:
    return math.fsum(line.get(key) or 0.0 for line in metrics)


def _finite(value: float) -> float | None:
    """JSON has no NaN; a figure that could not be had is null."""
    return value if math.isfinite(value) else None
