"""How long a run's steps took against their longest stage, with lag and without."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from alphagrpo.record.summary import Metrics, StepPace, values_of

LAG_REACH = 5
"""Steps before and after, per version of lag, that a step's times are averaged with."""


def median(metrics: Metrics, key: str) -> float | None:
    """Median of a figure over the steps that have it; None where none has."""
    values = values_of(metrics, key)
    return statistics.median(values) if values else None


def timed_steps(metrics: Metrics, max_lag: int) -> Metrics:
    """The steps that measured their longest stage; runs of earlier versions have none.

    With lag a step is drawn while earlier ones are learnt: its stages and its wall time are not of
    the same seconds, and a step that found all its groups drawn would be busy more than all of the
    time. So its times are then means over :data:`LAG_REACH` x ``max_lag`` steps to either side, and
    its shares those of these means.
    """
    lines = [line for line in metrics if line.get("time/efficiency") is not None]
    if not max_lag:
        return lines
    reach = LAG_REACH * max_lag
    return [
        {**line, **_averaged(lines[max(0, index - reach) : index + reach + 1])}
        for index, line in enumerate(lines)
    ]


def _averaged(lines: Metrics) -> dict[str, Any]:
    keys = {key for line in lines for key in line if key.startswith(("time/", "hidden/", "stage/"))}
    means = {key: statistics.fmean(values) for key in keys if (values := values_of(lines, key))}
    step_s = means["time/step_s"]
    bound_s = max(value for key, value in means.items() if key.startswith("stage/"))
    busy = {
        key: _share([line[key] * line["time/step_s"] for line in lines], step_s)
        for key in ("busy/draw", "busy/learn")
    }
    efficiency = _share([bound_s], step_s)
    return means | busy | {"time/bound_s": bound_s, "time/efficiency": efficiency}


def _share(seconds: Sequence[float], step_s: float) -> float:
    return statistics.fmean(seconds) / step_s if step_s > 0 else 0.0


def step_pace(metrics: Metrics, max_lag: int) -> StepPace | None:
    """T, T* and T* / T over :func:`timed_steps`; None where there are none."""
    lines = timed_steps(metrics, max_lag)
    step_s, bound_s = median(lines, "time/step_s"), median(lines, "time/bound_s")
    efficiency = median(lines, "time/efficiency")
    if step_s is None or bound_s is None or efficiency is None:
        return None
    return StepPace(
        step_s=round(step_s, 3), bound_s=round(bound_s, 3), efficiency=round(efficiency, 4)
    )
