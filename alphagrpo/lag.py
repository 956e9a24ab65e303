"""What it costs to learn from samples of an older policy, in words: before a run, and after it."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from alphagrpo.config import RunConfig

CLIPPED = "35 to 49 %"
"""Of the image terms, by a clip of 1e-5 after one optimizer step, at rates of 5e-5 and 1.5e-4: 43
to 49 in single steps, 35 to 37 as the median of a run (``python -m benchmarks.lag``)."""
WIDE = 1e-3
"""An image clip that took nothing there: the largest |log ratio| of an image term."""


def announced_lag(config: RunConfig) -> str | None:
    """What ``rollout.max_lag`` will mean to a run; None where there is no lag."""
    steps, algorithm = config.rollout.max_lag, config.algorithm
    if not steps:
        return None
    plural = "s" if steps > 1 else ""
    what = f"rollout.max_lag {steps}: samples are learnt up to {steps} optimizer step{plural} late"
    if algorithm.lag == "importance":
        return f"{what}, weighted by the ratio of both policies, at most {algorithm.lag_cap:g}"
    if not algorithm.image.enabled or algorithm.image.clip >= WIDE:
        return f"{what}; the clips alone correct for it"
    return (
        f"{what}; an image clip of 1e-5 takes the gradient from {CLIPPED} of the image terms after "
        f"one, here it is {algorithm.image.clip:g}: set algorithm.lag to importance, or "
        "rollout.max_lag to 0"
    )


def measured_lag(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """What lag did to a run, from the lines of its metrics; None where there was none."""
    late = [line for line in metrics if line.get("learner/lag")]
    if not late:
        return None
    oldest = max(line["learner/lag"] for line in late)
    what = (
        f"{len(late)} of {len(metrics)} steps learnt from samples that were up to {oldest:.0f} "
        f"optimizer step{'s' if oldest > 1 else ''} old"
    )
    if shares := _median_shares(late, "capped_share"):
        return f"{what}; importance weights reached their cap at {shares} (median step)."
    if shares := _median_shares(late, "clip_share"):
        return f"{what}; the clips took the gradient from {shares} (median step)."
    return f"{what}, which taught nothing."


def _median_shares(lines: Sequence[Mapping[str, Any]], figure: str) -> str:
    """Of the parts that have the figure; empty where none has, as of steps without an update."""
    shares = []
    for part in ("image", "text"):
        values = [line[key] for line in lines if line.get(key := f"{part}/{figure}") is not None]
        if values:
            shares.append(f"{100 * statistics.median(values):.0f} % of the {part} terms")
    return " and ".join(shares)
