"""Lag is announced before a run and told of after it, with its cost."""

from __future__ import annotations

import re
from typing import Any

import pytest

from alphagrpo.lag import announced_lag, measured_lag
from tests.fakes import make_config


@pytest.mark.parametrize(
    ("lag", "algorithm", "says"),
    [
        (0, {}, None),
        (0, {"lag": "importance"}, None),
        (
            1,
            {},
            "1 optimizer step late; an image clip of 1e-5 takes .*35 to 49 %.*here it is 1e-05",
        ),
        (2, {"image": {"clip": 1e-4}}, "2 optimizer steps late; .*here it is 0.0001: set algor"),
        (1, {"image": {"clip": 0.2}}, "late; the clips alone correct for it$"),
        (1, {"image": {"enabled": False}}, "late; the clips alone correct for it$"),
        (1, {"lag": "importance", "lag_cap": 1.5}, "late, weighted by the ratio .*at most 1.5$"),
    ],
)
def test_a_run_with_lag_says_so_and_what_it_costs(
    lag: int, algorithm: dict[str, Any], says: str | None
) -> None:
    note = announced_lag(make_config(rollout={"max_lag": lag}, algorithm=algorithm))
    assert (note is None) == (says is None)
    if note is not None and says is not None:
        assert re.search(says, note), note


def line(lag: float, **figures: float) -> dict[str, float]:
    return {"learner/lag": lag} | {key.replace("_", "/", 1): v for key, v in figures.items()}


def test_a_finished_run_says_how_many_terms_its_lag_cost() -> None:
    steps = [line(1.0, image_clip_share=x, text_clip_share=0.0) for x in (0.2, 0.46, 0.9)]
    on_policy = line(0.0, image_clip_share=0.0, text_clip_share=0.0)
    assert measured_lag([on_policy, {}]) is None
    assert measured_lag([on_policy, *steps]) == (
        "3 of 4 steps learnt from samples that were up to 1 optimizer step old; the clips took the "
        "gradient from 46 % of the image terms and 0 % of the text terms (median step)."
    )
    weighted = line(2.0, image_clip_share=0.0, image_capped_share=0.25)
    assert measured_lag([weighted]) == (
        "1 of 1 steps learnt from samples that were up to 2 optimizer steps old; importance "
        "weights reached their cap at 25 % of the image terms (median step)."
    )
    assert str(measured_lag([line(1.0)])).endswith("1 optimizer step old, which taught nothing.")
