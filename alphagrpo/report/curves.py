"""The report's curves: what of the metrics is drawn, under which title and with which note."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from alphagrpo.record.pace import timed_steps
from alphagrpo.report.charts import Series, line_chart, stacked_chart
from alphagrpo.report.figures import SORT_NAMES
from alphagrpo.report.pace import WAITS, role_names, shares_cards

if TYPE_CHECKING:
    from alphagrpo.eval.lines import Measure
    from alphagrpo.record.curve import HeldOutCurve
    from alphagrpo.record.summary import Metrics

HELDOUT_TITLES: Mapping[Measure, str] = {
    "all_right": "Held-out prompts all right",
    "dvreward": "DVReward of held-out prompts",
}
PARTS = ("image", "text")
"""Of the objective."""
LAG_CLIPPED = (
    "Terms that the clip removed",
    "share of each step's; they teach nothing, and at lag 0 there are none",
    "clip_share",
)
LAG_CAPPED = (
    "Importance weights at their cap",
    "share of each step's terms; these count for less than the newer policy would have it",
    "capped_share",
)
"""Title, note and metric, with ``algorithm.lag`` importance; before it, with ``clip``."""


def charts(
    metrics: Metrics, heldout: HeldOutCurve, config: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Titles, notes and SVG of the curves that have data: what the run learnt, and how fast."""
    drift = "between rollout and replay of the same policy; above the line it is clipped"
    if config["rollout"]["max_lag"]:
        drift = "between rollout and replay, which is by a newer policy"
    return _drawn(
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
            "note": drift,
            "svg": line_chart(
                [_series(metrics, "image/max_abs_log_ratio", "|log ratio|")],
                from_zero=True,
                limit=(float(config["algorithm"]["image"]["clip"]), "clip range"),
            ),
        },
        {
            "title": "Samples per second",
            "note": "thought, drawn, verified and trained on, by the wall clock",
            "svg": line_chart(
                [_series(metrics, "samples/per_second", "samples", smooth=True)], from_zero=True
            ),
        },
    )


def pace_charts(metrics: Metrics, config: Mapping[str, Any]) -> list[dict[str, str]]:
    """The same of where the time went, and with lag of what it cost."""
    max_lag = config["rollout"]["max_lag"]
    steps = timed_steps(metrics, max_lag)
    # Before steps measured their stages, the four times of one with lag were no waits.
    waits = timed_steps(metrics, 0) if max_lag else metrics
    return _drawn(
        {
            "title": "What a step waited for",
            "note": "seconds of each step; together they are its wall time",
            "svg": wait_chart(waits),
        },
        busy_chart(steps),
        lag_chart(metrics if max_lag else ()),
    )


def lag_chart(metrics: Metrics) -> dict[str, str]:
    """Terms of each part of the objective that learning from an older policy cost."""
    capped = any(f"{part}/capped_share" in line for line in metrics for part in PARTS)
    title, note, figure = LAG_CAPPED if capped else LAG_CLIPPED
    series = [_series(metrics, f"{part}/{figure}", f"{part} terms", smooth=True) for part in PARTS]
    return {"title": title, "note": note, "svg": line_chart(series, percent=True, from_zero=True)}


def busy_chart(metrics: Metrics) -> dict[str, str]:
    """Of each role; T* / T apart from them only where the roles share their processes."""
    drawing, learning = role_names(metrics)
    series = [
        _series(metrics, "busy/draw", drawing, smooth=True),
        _series(metrics, "busy/learn", learning, smooth=True),
    ]
    largest = "the larger one is T* / T, the efficiency"
    if shares_cards(metrics):
        series.append(_series(metrics, "time/efficiency", "both", smooth=True))
        largest = "both together are T* / T, the efficiency"
    return {
        "title": "Busy shares",
        "note": f"of a step's time, what each role's processes worked; {largest}",
        "svg": line_chart(series, percent=True, from_zero=True, up_to=1.0),
    }


def _drawn(*curves: dict[str, str]) -> list[dict[str, str]]:
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


def wait_chart(metrics: Metrics) -> str:
    """Stacked seconds that each step waited, by what for."""
    keys = [waited for waited, _ in WAITS.values()]
    lines = [line for line in metrics if all(key in line for key in keys)]
    columns = [[float(line[key]) for line in lines] for key in keys]
    names = [f"waiting for {name}" for name in WAITS]
    return stacked_chart(names, [float(line["step"]) for line in lines], columns)


def _series(
    metrics: Iterable[Mapping[str, Any]], key: str, name: str, *, smooth: bool = False
) -> Series:
    points = tuple(
        (float(line["step"]), float(line[key])) for line in metrics if line.get(key) is not None
    )
    return Series(name=name, points=points, smooth=smooth)
