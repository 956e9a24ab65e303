"""Charts keep their points inside the frame, and axes have round numbers."""

from __future__ import annotations

import re

import pytest

from alphagrpo.report.charts import Series, line_chart, moving_average, stacked_chart, ticks


def test_charts_keep_every_point_inside_the_frame() -> None:
    points = tuple((float(x), 5.0 * (-1) ** x) for x in range(20))
    svg = line_chart([Series(name="a", points=points)], limit=(9.0, "limit"))
    pixels = re.findall(r"[ML ]([\d.]+),([\d.]+)", svg)
    assert len(pixels) == 20
    assert all(52 <= float(x) <= 546 and 12 <= float(y) <= 190 for x, y in pixels)
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


def test_the_moving_average_keeps_a_straight_line_inside() -> None:
    line = [(float(x), 2.0 * x) for x in range(30)]
    assert [y for _, y in moving_average(line)[5:25]] == pytest.approx(range(10, 50, 2))
