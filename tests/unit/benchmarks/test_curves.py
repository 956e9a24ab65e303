"""Curves of several seeds: mean and spread per step, as an SVG that a browser can read."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.curves import band, band_chart


def test_the_band_is_mean_and_deviation_over_seeds() -> None:
    points = band([[0.5] * 20, [0.7] * 20])
    assert [step for step, _, _ in points] == list(range(20))
    assert all(mean == pytest.approx(0.6) for _, mean, _ in points)
    assert all(spread == pytest.approx(0.1 * 2**0.5) for _, _, spread in points)


def test_the_band_ends_with_the_shortest_seed_and_leaves_out_absent_steps() -> None:
    assert [step for step, _, _ in band([[0.1, None, 0.3, 0.4], [0.1, 0.2, 0.3]])] == [0, 2]
    assert band([]) == []


def test_one_seed_has_no_band() -> None:
    assert all(spread == 0 for _, _, spread in band([[0.1, 0.2, 0.3]]))


def test_the_chart_is_xml_with_two_paths_and_a_name_per_setting() -> None:
    text = band_chart("reward", {"a < b": [[0.1, 0.2], [0.3, 0.4]], "c": [[0.5]], "none": []})
    root = ElementTree.fromstring(text)
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b, 2 seeds" in words
    assert "c, 1 seed" in words
    assert not any("none" in (word or "") for word in words)
    groups = root.find("{http://www.w3.org/2000/svg}g")
    assert groups is not None
    filled = [p for p in groups if p.get("opacity")]
    assert len(filled) == 2


def test_nothing_to_draw_is_empty() -> None:
    assert band_chart("reward", {}) == ""
