"""Small inline SVG charts: lines and stacked areas, coloured by CSS classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 210
"""Of the drawing; a phone shows it at three quarters of that, with larger letters."""
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 30
"""Pixels around the plot for labels."""
SMOOTHING = 0.12
"""Share of a series that its moving average spans."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A named line."""

    name: str
    points: tuple[Point, ...]
    """(x, y) by increasing x; y is finite."""
    smooth: bool = False
    """Plot the points faintly and their moving average over them."""
    dots: bool = False
    """Mark each point, for series of few points."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From data to pixels."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def x(self, value: float) -> float:
        """Horizontal pixel of a value."""
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.low_x) / (self.high_x - self.low_x)

    def y(self, value: float) -> float:
        """Vertical pixel of a value."""
        share = (value - self.low_y) / (self.high_y - self.low_y)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def path(self, points: Sequence[Point]) -> str:
        """SVG path through points."""
        steps = [f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points]
        return "M" + " L".join(steps)


def line_chart(
    series: Sequence[Series],
    *,
    percent: bool = False,
    from_zero: bool = False,
    up_to: float | None = None,
    limit: tuple[float, str] | None = None,
) -> str:
    """An SVG line chart over steps; empty text where no series has a point.

    ``limit`` is a value with its name, shown as a dashed line. ``percent`` labels y as per cent.
    The axis reaches ``up_to`` at least.
    """
    lines = [line for line in series if line.points]
    if not lines:
        return ""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    if limit is not None:
        ys.append(limit[0])
    if up_to is not None:
        ys.append(up_to)
    scale = scale_for(xs, ys, from_zero=from_zero)
    body = [axes(scale, percent=percent)]
    if limit is not None:
        body.append(_limit(scale, *limit))
    body += [_line(scale, line, index) for index, line in enumerate(lines)]
    return _svg(body) + _legend([line.name for line in lines])


def stacked_chart(
    names: Sequence[str], xs: Sequence[float], columns: Sequence[Sequence[float]]
) -> str:
    """An SVG chart of stacked areas: ``columns[i][k]`` is the height of layer i at ``xs[k]``."""
    if not xs:
        return ""
    if len(xs) == 1:  # an area needs two sides
        xs, columns = [xs[0], xs[0] + 1], [[c[0], c[0]] for c in columns]
    totals = [sum(column[k] for column in columns) for k in range(len(xs))]
    scale = scale_for(list(xs), [0.0, *totals], from_zero=True)
    below = [0.0] * len(xs)
    body = [axes(scale, percent=False)]
    for index, column in enumerate(columns):
        above = [b + c for b, c in zip(below, column, strict=True)]
        outline = [*zip(xs, above, strict=True), *reversed(list(zip(xs, below, strict=True)))]
        body.append(f'<path class="area s{index}" d="{scale.path(outline)} Z"/>')
        below = above
    return _svg(body) + _legend(names)


def moving_average(points: Sequence[Point], share: float = SMOOTHING) -> list[Point]:
    """Centred moving average over a ``share`` of the points, shorter at both ends."""
    reach = max(1, round(len(points) * share / 2))
    averaged = []
    for index, (x, _) in enumerate(points):
        near = points[max(0, index - reach) : index + reach + 1]
        averaged.append((x, math.fsum(y for _, y in near) / len(near)))
    return averaged


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values inside [low, high], about ``count`` of them."""
    span = (high - low) / max(count, 1)
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= span * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def scale_for(xs: Sequence[float], ys: Sequence[float], *, from_zero: bool) -> Scale:
    """A scale that shows all points, with a margin above and, unless from zero, below."""
    low_x, high_x = min(xs), max(xs)
    low_y, high_y = min(ys), max(ys)
    if from_zero:
        low_y = min(0.0, low_y)
    margin = 0.06 * (high_y - low_y) or max(abs(high_y) * 0.1, 1e-9)
    low_y = low_y if from_zero else low_y - margin
    return Scale(low_x, high_x if high_x > low_x else low_x + 1.0, low_y, high_y + margin)


def axes(scale: Scale, *, percent: bool) -> str:
    """Lines and labels, of the CSS classes ``grid`` and ``tick``."""
    parts = []
    heights = ticks(scale.low_y, scale.high_y)
    digits = 0 if all(abs(100 * value - round(100 * value)) < 1e-6 for value in heights) else 1
    for value in heights:
        y = scale.y(value)
        text = f"{value:.{digits}%}" if percent else _short(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )
    for value in ticks(scale.low_x, scale.high_x, 6):
        if value == int(value):
            x = scale.x(value)
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="middle">'
                f"{value:.0f}</text>"
            )
    return "".join(parts)


def _limit(scale: Scale, value: float, name: str) -> str:
    y = scale.y(value)
    return (
        f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{y - 5:.1f}" text-anchor="end">'
        f"{escape(name)}</text>"
    )


def _line(scale: Scale, line: Series, index: int) -> str:
    parts = []
    if line.smooth and len(line.points) > 5:
        parts.append(f'<path class="line faint s{index}" d="{scale.path(line.points)}"/>')
        average = moving_average(line.points)
        parts.append(f'<path class="line s{index}" d="{scale.path(average)}"/>')
    else:
        parts.append(f'<path class="line s{index}" d="{scale.path(line.points)}"/>')
    if line.dots or len(line.points) == 1:
        for x, y in line.points:
            tip = f"<title>{escape(line.name)}, step {x:g}: {y:.3g}</title>"
            circle = (
                f'<circle class="dot s{index}" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="3.5">'
            )
            parts.append(f"{circle}{tip}</circle>")
    return "".join(parts)


def _svg(body: Sequence[str]) -> str:
    inner = "".join(body)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{inner}</svg>'


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = "".join(
        f'<span><i class="key s{index}"></i>{escape(name)}</span>'
        for index, name in enumerate(names)
    )
    return f'<div class="legend">{items}</div>'


def _short(value: float) -> str:
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.0e}"
    return f"{value:.3g}"
