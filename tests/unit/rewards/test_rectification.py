"""Both readings of false-positive rectification."""

from __future__ import annotations

import pytest

from alphagrpo.algorithms.advantages import group_advantages
from alphagrpo.rewards.rectification import rectify

REFINED = [0.2, 0.5, 0.6, 0.9]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("off", [0.2, 0.5, 0.6, 0.9]),
        ("max", [0.5, 0.5, 0.6, 0.9]),
        ("group_min", [0.2, 0.2, 0.6, 0.9]),
    ],
)
def test_both_readings_of_rectification(mode, expected):
    assert rectify(REFINED, 0.5, mode) == expected


@pytest.mark.parametrize("mode", ["max", "group_min"])
def test_a_group_that_did_not_improve_teaches_nothing(mode):
    assert group_advantages([rectify(REFINED, 0.95, mode)], std="group") == [(0.0,) * 4]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("off", [None, 0.4, 0.3, 0.9]),
        ("max", [None, 0.5, 0.5, 0.9]),
        ("group_min", [None, 0.3, 0.3, 0.9]),
    ],
)
def test_absent_rewards_stay_absent_and_are_no_minimum(mode, expected):
    assert rectify([None, 0.4, 0.3, 0.9], 0.5, mode) == expected
    assert rectify([None, None], 0.5, mode) == [None, None]


def test_an_unknown_reading_is_refused():
    with pytest.raises(ValueError, match="group_min"):
        rectify(REFINED, 0.5, "min")
