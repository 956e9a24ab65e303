"""Training curves of several seeds as a picture for a Markdown page: their mean and spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape

from alphagrpo.report.charts import (
    HEIGHT,
    LEFT,
    WIDTH,
    Point,
    Scale,
    axes,
    moving_average,
    scale_for,
)

COLOURS = ("#2f6fb2", "#c2571a", "#3c8d40", "#8a4fa3", "#8a8a2f")
STYLE = "<style>.grid{stroke:#ddd}</style>"
LEGEND = 18
"""Pixels per line of the legend, which stands above the plot."""

Band = list[tuple[float, float, float]]
"""(step, mean, standard deviation over seeds) by step."""


def band(curves: Sequence[Sequence[float | None]]) -> Band:
    """Mean and standard deviation over seeds of their moving averages, per step.

    Each curve has one value per optimizer step, None where there was none. A step that not every
    seed has ends the band: a mean over fewer seeds would show a jump that no run has.
    """
    smooth = []
    for curve in curves:
        known: list[Point] = [(float(k), y) for k, y in enumerate(curve) if y is not None]
        smooth.append(dict(moving_average(known)))
    points: Band = []
    for step in sorted(set[float].intersection(*(set(s) for s in smooth)) if smooth else ()):
        values = [s[step] for s in smooth]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        points.append((step, statistics.fmean(values), spread))
    return points


def band_chart(title: str, curves: Mapping[str, Sequence[Sequence[float | None]]]) -> str:
    """An SVG file: for each name the mean of its seeds' curves, in a band of ± 1 deviation.

    Empty text where there is nothing to plot.
    """
    bands = {name: band(seeds) for name, seeds in curves.items()}
    bands = {name: points for name, points in bands.items() if points}
    if not bands:
        return ""
    scale = _scale(list(bands.values()))
    top = LEGEND * (len(bands) + 1)
    body = [axes(scale, percent=False)]
    body += [_band(scale, points, _colour(k)) for k, points in enumerate(bands.values())]
    legend = [f'<text x="{LEFT}" y="13" font-weight="bold">{escape(title)}</text>']
    for index, name in enumerate(bands):
        y = LEGEND * (index + 2) - 5
        text = f"{name}, {len(curves[name])} seed{'s' if len(curves[name]) > 1 else ''}"
        legend.append(
            f'<rect x="{LEFT}" y="{y - 8}" width="14" height="8" fill="{_colour(index)}"/>'
            f'<text x="{LEFT + 20}" y="{y}">{escape(text)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + top}" '
        f'font-family="sans-serif" font-size="12" fill="#333">'
        f'<rect width="100%" height="100%" fill="white"/>{STYLE}{"".join(legend)}'
        f'<g transform="translate(0,{top})">{"".join(body)}</g></svg>\n'
    )


def _scale(bands: Sequence[Band]) -> Scale:
    points = [point for band in bands for point in band]
    edges = [mean + side * spread for _, mean, spread in points for side in (-1, 1)]
    return scale_for([step for step, _, _ in points], edges, from_zero=False)


def _band(scale: Scale, points: Band, colour: str) -> str:
    upper = [(step, mean + spread) for step, mean, spread in points]
    lower = [(step, mean - spread) for step, mean, spread in reversed(points)]
    middle = [(step, mean) for step, mean, _ in points]
    return (
        f'<path d="{scale.path([*upper, *lower])} Z" fill="{colour}" opacity="0.18"/>'
        f'<path d="{scale.path(middle)}" fill="none" stroke="{colour}" stroke-width="2"/>'
    )


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]
