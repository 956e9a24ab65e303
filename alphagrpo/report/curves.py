"""The report's curves: what of the metrics is drawn, under which title and with which note."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from alphagrpo.report.charts import Series, line_chart, stacked_chart
from alphagrpo.report.figures import SORT_NAMES

if TYPE_CHECKING:
    from alphagrpo.eval.lines import Measure
    from alphagrpo.record.curve import HeldOutCurve
    from alphagrpo.record.summary import Metrics

HELDOUT_TITLES: Mapping[Measure, str] = {
    "all_right": "Held-out prompts all right",
    "dvreward": "DVReward of held-out prompts",
}
STAGES = {
    "time/rollout_s": "think and draw",
    "time/verify_wait_s": "wait for verdicts",
    "time/learn_s": "learn",
    "time/sync_s": "move weights",
}


def charts(
    metrics: Metrics, heldout: HeldOutCurve, config: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Titles, notes and SVG of the curves that have data."""
    curves = [
        {
            "title": "Reward",
            "note": "DVReward plus the bonus for a well-formed thought; mean of each step",
            "svg": line_chart(
                [
                    _series(metrics, "reward/mean", "reward", smooth=True),
                    _series(metrics, "reward/score", "DVReward alone", smooth=True),
                ]
            ),
        },
        {
            "title": HELDOUT_TITLES[heldout.measure],
            "note": heldout_note(heldout),
            "svg": line_chart(heldout_series(heldout), percent=True),
        },
        {
            "title": "Refinements against their drafts",
            "note": "share of refined pictures that score higher, and lower, than their draft",
            "svg": line_chart(
                [
                    _series(metrics, "refine/improved_share", "better", smooth=True),
                    _series(metrics, "refine/harmed_share", "worse", smooth=True),
                ],
                percent=True,
            ),
        },
        {
            "title": "Largest |log ratio|, picture",
            "note": "between rollout and replay of the same policy; above the line it is clipped",
            "svg": line_chart(
                [_series(metrics, "image/max_abs_log_ratio", "|log ratio|")],
                from_zero=True,
                limit=(float(config["algorithm"]["image"]["clip"]), "clip range"),
            ),
        },
        {
            "title": "Samples per second",
            "note": "thought, drawn, verified and trained on",
            "svg": line_chart(
                [_series(metrics, "samples/per_second", "samples", smooth=True)], from_zero=True
            ),
        },
        {
            "title": "Where a step's seconds go",
            "note": "per step; waiting for verdicts is only what drawing did not hide",
            "svg": stage_chart(metrics),
        },
    ]
    return [curve for curve in curves if curve["svg"]]


def heldout_series(curve: HeldOutCurve) -> list[Series]:
    """A line per sort of prompt, in the order of the page."""
    return [
        Series(name=name, points=curve.points.get(sort, ()), dots=True)
        for sort, name in SORT_NAMES.items()
    ]


def heldout_note(curve: HeldOutCurve) -> str:
    """Who judges, and on how many prompts every point of the curve stands."""
    judge = "by the oracle, which never rewards" if curve.measure == "all_right" else "0 to 1"
    counts = []
    for sort, name in SORT_NAMES.items():
        if sort in curve.points:
            number, of = curve.num_prompts[sort], curve.num_heldout[sort]
            few = f"{number} of {of}" if number < of else str(number)
            counts.append(f"{few} {name[0].lower()}{name[1:]}")
    return f"{judge}; every point is of the same {' and '.join(counts)}"


def stage_chart(metrics: Metrics) -> str:
    """Stacked seconds per stage and step."""
    lines = [line for line in metrics if all(key in line for key in STAGES)]
    columns = [[float(line[key]) for line in lines] for key in STAGES]
    return stacked_chart(list(STAGES.values()), [float(line["step"]) for line in lines], columns)


def _series(
    metrics: Iterable[Mapping[str, Any]], key: str, name: str, *, smooth: bool = False
) -> Series:
    points = tuple(
        (float(line["step"]), float(line[key])) for line in metrics if line.get(key) is not None
    )
    return Series(name=name, points=points, smooth=smooth)
