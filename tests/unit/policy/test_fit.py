"""Which card holds what, against peaks that were measured on an H200."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphagrpo.config import RunConfig, load_config
from alphagrpo.policy.fit import Case, cases
from alphagrpo.policy.memory import model_size

CONFIGS = Path(__file__).parents[3] / "deploy/configs"
CARD_SIZES = (80e9, 141e9)


def cases_of(name: str, *overrides: str) -> dict[str, Case]:
    """Of one learner beside seven runners, unless ``overrides`` say otherwise."""
    measured = ["learner.ranks=1", "rollout.num_runners=7"]
    config: RunConfig = load_config(CONFIGS / f"bagel-7b-{name}.yaml", [*measured, *overrides])
    return {case.name: case for case in cases(config, *model_size(config))}


def verdicts(case: Case) -> list[str]:
    return [case.verdict(size) for size in CARD_SIZES]


@pytest.mark.parametrize(
    ("name", "role", "measured"),
    [
        ("rt2i", "runner", 49.4e9),
        ("rt2i", "learner", 55.7e9),
        ("srr", "runner", 58e9),
        ("srr", "learner", 76.8e9),
    ],
)
def test_peaks_are_near_what_was_allocated(name: str, role: str, measured: float) -> None:
    assert cases_of(name)[role].peak_bytes == pytest.approx(measured, rel=0.03)


def test_a_case_is_tight_in_the_last_tenth_of_a_card() -> None:
    peaks = (90.0, 90.5, 100.0, 100.5)
    found = [Case(name="x", peak_bytes=peak).verdict(100) for peak in peaks]
    assert found == ["fits", "tight", "tight", "does not fit"]


def test_the_refining_learner_is_on_the_edge_of_80_gb() -> None:
    """Its allocator held more than an H100 has where there was room."""
    assert verdicts(cases_of("srr")["learner"]) == ["tight", "fits"]


def test_the_released_run_fits_also_on_shared_cards() -> None:
    found = cases_of("rt2i")
    assert list(found) == ["runner", "learner", "shared card, 1 of 8"]
    assert all(verdicts(case) == ["fits", "fits"] for case in found.values())
    assert [case.configured for case in found.values()] == [True, True, False]
    # Weights once: what learns there also draws, one after the other.
    assert found["shared card, 1 of 8"].peak_bytes == found["learner"].peak_bytes


def test_training_the_experts_needs_four_large_cards_or_eight_small_ones() -> None:
    found = cases_of("rt2i", "model.trainable=experts", "learner.ranks=4")
    assert verdicts(found["learner"]) == ["does not fit", "does not fit"]
    assert verdicts(found["learner, 1 of 4"]) == ["does not fit", "fits"]
    assert verdicts(found["learner, 1 of 8"]) == ["fits", "fits"]
    assert [name for name, case in found.items() if case.configured] == [
        "runner",
        "learner, 1 of 4",
    ]
    assert verdicts(found["runner"]) == ["fits", "fits"], "weights under way are in main memory"


def test_shared_cards_are_told_with_the_runners_there_are() -> None:
    overrides = ("learner.placement=runners", "learner.gpus=0", "rollout.num_runners=16")
    assert list(cases_of("rt2i", *overrides)) == ["shared card, 1 of 16"]
    found = cases_of("rt2i", *overrides, "model.trainable=experts")
    assert list(found) == [
        "shared card",
        "shared card, 1 of 4",
        "shared card, 1 of 8",
        "shared card, 1 of 16",
    ]
    peaks = [case.peak_bytes for case in found.values()]
    assert peaks == sorted(peaks, reverse=True)


def test_slices_make_room() -> None:
    whole, sliced = cases_of("srr"), cases_of("srr", "rollout.slices=2")
    assert verdicts(sliced["learner"]) == ["fits", "fits"]
    assert sliced["runner"].peak_bytes < whole["runner"].peak_bytes - 8e9
