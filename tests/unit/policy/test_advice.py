"""What would make a step quicker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alphagrpo.config import load_config
from alphagrpo.policy.advice import SHARED_CARDS, Change, changes
from alphagrpo.policy.cards import H200
from alphagrpo.policy.forecast import Mesh, StepModel
from alphagrpo.policy.memory import model_size

RECIPE = load_config(
    Path(__file__).parents[3] / "deploy/configs/bagel-7b-rt2i.yaml",
    ["rollout.num_runners=7", "learner.ranks=1", "learner.recompute=all"],
)
MODEL = StepModel(RECIPE, *model_size(RECIPE), H200)
RELEASED = Mesh.of(RECIPE, 2)
SHARED = replace(RELEASED, shared=True, runners=8, ranks=8)


def by_name(mesh: Mesh) -> dict[str, Change]:
    return {change.name: change for change in changes(MODEL, mesh)}


def minutes(change: Change) -> float:
    return change.forecast.step_s / 60


def test_eight_shared_cards_are_four_times_as_fast_as_seven_runners_and_a_learner() -> None:
    found = changes(MODEL, RELEASED)
    best = found[0]
    assert best.name == SHARED_CARDS
    assert minutes(best) == pytest.approx(4.3, rel=0.02)
    assert MODEL.forecast(RELEASED).step_s / best.forecast.step_s == pytest.approx(3.9, rel=0.02)
    expected = "learner.placement runners, learner.gpus 0, rollout.num_runners 8"
    assert (best.settings, best.extra_cards) == (expected, 0)
    times = [change.forecast.step_s for change in found]
    assert times == sorted(times)


def test_another_rank_halves_what_another_runner_leaves_as_it_is() -> None:
    found = by_name(RELEASED)
    now = MODEL.forecast(RELEASED)
    assert found.keys() == {
        SHARED_CARDS,
        "another split",
        "another rank",
        "another runner",
        "another verifier",
        "slices",
    }
    assert found["another rank"].settings == "learner.ranks 2"
    assert minutes(found["another rank"]) < 0.55 * now.step_s / 60
    assert minutes(found["another runner"]) > 0.95 * now.step_s / 60
    assert not found["another verifier"].helps(now)
    assert not found["slices"].helps(now), "a slice thinks as long as a group"
    assert found["another split"].settings == "rollout.num_runners 4, learner.ranks 4"


def test_as_many_more_are_named_as_help() -> None:
    """32 groups on 8 cards are 4 each, on 11 at most 3; 9 and 10 gain nothing."""
    more = by_name(SHARED)["3 more cards"]
    assert (more.settings, more.extra_cards) == ("rollout.num_runners 11", 3)
    assert more.mesh.ranks == 11
    assert minutes(more) == pytest.approx(3.2, rel=0.03)


def test_of_shared_cards_nothing_is_asked_that_they_have() -> None:
    assert by_name(SHARED).keys() == {"3 more cards", "another verifier", "slices"}


def test_a_step_that_is_not_streamed_may_be() -> None:
    unstreamed = replace(RELEASED, streamed=False)
    found = by_name(unstreamed)["streaming"]
    assert found.settings == "learner.streamed true"
    assert found.forecast == MODEL.forecast(RELEASED)


def test_slices_are_advised_where_runners_idle() -> None:
    """If thinking is quick: a slice thinks as long as a group."""
    many = replace(RELEASED, runners=64, ranks=32, judges=64)
    quick = StepModel(RECIPE, *model_size(RECIPE), replace(H200, token_s=0.001))
    found = {change.name: change for change in changes(quick, many)}["slices"]
    assert found.mesh.slices == int(found.settings.removeprefix("rollout.slices "))
    others = [quick.forecast(replace(many, slices=n)).step_s for n in range(2, 15)]
    assert found.forecast.step_s <= 1.01 * min(others)
    fewer = range(2, found.mesh.slices)
    assert all(others[n - 2] > 1.01 * min(others) for n in fewer)
    assert found.helps(quick.forecast(many))


def test_no_change_breaks_a_rule_of_the_config() -> None:
    """At most as many ranks as slices in a step, no slice without a sample, no lag when shared."""
    full = replace(RELEASED, runners=8, ranks=32, max_lag=1)
    found = by_name(full)
    assert "another rank" not in found
    assert found[SHARED_CARDS].mesh.slices == 2, "40 cards, 32 prompts"
    assert found[SHARED_CARDS].mesh.max_lag == 0
    assert found[SHARED_CARDS].settings.endswith(
        "learner.gpus 0, rollout.num_runners 40, rollout.slices 2, rollout.max_lag 0"
    )
    assert "learner.ranks 1" in found[SHARED_CARDS].settings
    assert found["another split"].mesh.ranks <= 32
    vast = replace(RELEASED, runners=32 * 14)
    assert SHARED_CARDS not in by_name(vast)
    everyone = replace(SHARED, runners=32, ranks=32)
    assert not any("card" in name for name in by_name(everyone))


def test_nothing_is_said_of_judges_that_are_not_known() -> None:
    assert "another verifier" not in by_name(replace(RELEASED, judges=None))


def test_slow_judges_are_the_first_thing_to_change() -> None:
    slow = replace(SHARED, judges=0.1)
    best = changes(MODEL, slow)[0]
    assert best.name == "another verifier"
    assert best.settings == "replicas more in the Serve file: 1"
