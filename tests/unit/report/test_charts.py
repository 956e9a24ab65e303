"""Charts keep their points inside the frame, and axes have round numbers."""

from __future__ import annotations

import re

import pytest

from alphagrpo.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    line_chart,
    moving_average,
    stacked_chart,
    ticks,
)


def test_charts_keep_every_point_inside_the_frame() -> None:
    points = tuple((float(x), 5.0 * (-1) ** x) for x in range(20))
    svg = line_chart([Series(name="a", points=points)], limit=(9.0, "limit"))
    pixels = re.findall(r"[ML ]([\d.]+),([\d.]+)", svg)
    assert len(pixels) == 20
    assert all(LEFT <= float(x) <= WIDTH - RIGHT for x, _ in pixels)
    assert all(TOP <= float(y) <= HEIGHT - BOTTOM for _, y in pixels)
    assert line_chart([Series(name="none", points=())]) == ""
    assert stacked_chart(["a"], [], [[]]) == ""
    assert "area" in stacked_chart(["a", "b"], [1.0], [[2.0], [3.0]])


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert ticks(3.0, 3.0) == [3.0]
    for low, high in ((0.0, 1e-5), (-2.3, 7.7), (0.31, 0.62)):
        values = ticks(low, high)
        assert 2 <= len(values) <= 6
        assert all(low - 1e-12 <= value <= high + 1e-12 for value in values)


def test_labels_of_shares_that_lie_close_have_a_digit_more() -> None:
    def labels(low: float, high: float) -> list[str]:
        svg = line_chart([Series(name="a", points=((0.0, low), (1.0, high)))], percent=True)
        return re.findall(r">([\d.]+%)<", svg)

    assert labels(0.2, 0.8) == ["20%", "40%", "60%", "80%"]
    assert labels(0.42, 0.5) == ["42.5%", "45.0%", "47.5%", "50.0%"]


def test_an_axis_reaches_as_far_as_it_is_asked_to() -> None:
    line = Series(name="a", points=((0.0, 0.2), (1.0, 0.3)))
    svg = line_chart([line], percent=True, from_zero=True, up_to=1.0)
    assert re.findall(r">([\d.]+%)<", svg) == ["0%", "50%", "100%"]


def test_the_moving_average_keeps_a_straight_line_inside() -> None:
    line = [(float(x), 2.0 * x) for x in range(30)]
    assert [y for _, y in moving_average(line)[5:25]] == pytest.approx(range(10, 50, 2))
