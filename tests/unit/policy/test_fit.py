"""Which card holds what, against peaks that were measured on an H200."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alphagrpo.config import RunConfig, load_config
from alphagrpo.models.bagel.sizes import BagelShape
from alphagrpo.models.bagel.space import Practice
from alphagrpo.policy.fit import (
    LIBRARIES_BYTES,
    Case,
    cases,
    learner_peak,
    process_case,
    recomputed_layers,
    settings_for_room,
)
from alphagrpo.policy.memory import MASTER_BYTES, memory_estimate, model_size
from alphagrpo.policy.working import Handling

CONFIGS = Path(__file__).parents[3] / "deploy/configs"
CARD_SIZES = (80e9, 141e9)
H100_BYTES = 85.5e9
RESERVED = 86.4 / 76.8
"""What the allocator had reserved, over what was allocated, where it was most."""
MEASURED_CODE = replace(
    BagelShape.released(),
    practice=Practice(repeated_keys=True, part_tokens=None, wide_head=True),
)
MEASURED_HANDLING = Handling(
    decoded_at_once=14, lowered_adapters=False, static_buffers=False, read_beside_pack=True
)


def config_of(name: str, *overrides: str) -> RunConfig:
    """Of one learner beside seven runners, unless ``overrides`` say otherwise."""
    split = ["learner.ranks=1", "rollout.num_runners=7", "learner.recompute=all"]
    return load_config(CONFIGS / f"bagel-7b-{name}.yaml", [*split, *overrides])


def cases_of(name: str, *overrides: str) -> dict[str, Case]:
    config = config_of(name, *overrides)
    return {case.name: case for case in cases(config, *model_size(config), CARD_SIZES)}


def verdicts(case: Case) -> list[str]:
    return [case.verdict(size) for size in CARD_SIZES]


def measured_peak(name: str, part: str, thought: int) -> float:
    """Of one group by itself, as it was measured: no evaluation, no other group's gradient."""
    alone = ["rollout.prompts_per_step=1", "rollout.num_runners=1", "evaluation.num_plain=0"]
    config = config_of(name, *alone, f"task.max_think_tokens={thought}")
    shape, size = MEASURED_CODE, model_size(config)[1]
    size = replace(size, float32=shape.float32_weights)
    if part == "learning":
        return learner_peak(config, shape, size, handling=MEASURED_HANDLING)
    estimate = memory_estimate(config, shape, size, handling=MEASURED_HANDLING)
    held = estimate.weights + estimate.trainable * MASTER_BYTES + LIBRARIES_BYTES
    return held + int(getattr(estimate.drawing, part))


@pytest.mark.parametrize(
    ("name", "part", "thought", "measured"),
    [
        ("rt2i", "denoising", 1024, 42.4e9),
        ("rt2i", "decoding", 1024, 49.4e9),
        ("rt2i", "learning", 128, 53.9e9),
        ("rt2i", "learning", 1024, 55.7e9),
        ("srr", "denoising", 1024, 55e9),
        ("srr", "decoding", 1024, 58e9),
        ("srr", "learning", 1024, 76.8e9),
    ],
)
def test_what_is_counted_is_what_was_allocated_and_a_little_more(
    name: str, part: str, thought: int, measured: float
) -> None:
    """For the code as it was then: keys repeated, whole MLPs, a wide head, 14 pictures at once."""
    assert measured <= measured_peak(name, part, thought) <= 1.05 * measured


@pytest.mark.parametrize(
    ("name", "role", "before"),
    [("rt2i", "runner", 49.4e9), ("rt2i", "learner", 55.7e9), ("srr", "learner", 76.8e9)],
)
def test_the_code_as_it_is_needs_less(name: str, role: str, before: float) -> None:
    assert cases_of(name)[role].peak_bytes < before - 2e9


def test_the_refining_learner_fits_80_gb_with_what_the_allocator_reserves() -> None:
    learner = cases_of("srr")["learner"]
    assert verdicts(learner) == ["fits", "fits"]
    assert learner.peak_bytes * RESERVED <= 76e9
    assert learner.verdict(H100_BYTES) == "fits"


def test_a_case_is_tight_where_the_allocator_needs_the_rest() -> None:
    peaks = (88.0, 88.5, 100.0, 100.5)
    found = [Case(name="x", peak_bytes=peak).verdict(100) for peak in peaks]
    assert found == ["fits", "tight", "tight", "does not fit"]


def test_the_released_run_fits_also_on_shared_cards() -> None:
    found = cases_of("rt2i")
    assert list(found) == ["runner", "learner", "shared card, 1 of 8"]
    assert all(verdicts(case) == ["fits", "fits"] for case in found.values())
    assert [case.configured for case in found.values()] == [True, True, False]
    # Weights once: what learns there also draws, one after the other. Fewer groups each.
    assert found["shared card, 1 of 8"].peak_bytes < found["learner"].peak_bytes + 1


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
    assert sliced["learner"].peak_bytes < whole["learner"].peak_bytes - 12e9
    assert sliced["runner"].peak_bytes == whole["runner"].peak_bytes, "an evaluation draws 14"
    both = cases_of("srr", "rollout.slices=2", "evaluation.batch_size=7")
    assert both["runner"].peak_bytes < whole["runner"].peak_bytes - 8e9


def test_a_budget_recomputes_the_fewest_layers_that_fit_it() -> None:
    def layers(setting: str, card_bytes: float = 141e9) -> int:
        config = config_of("rt2i", f"learner.recompute={setting}")
        return recomputed_layers(config, *model_size(config), card_bytes)

    assert [layers(setting) for setting in ("all", "none", "true", "false")] == [28, 0, 28, 0]
    config = config_of("rt2i")
    shape, size = model_size(config)
    assert 0 < layers("100") < layers("80") < layers("60") < 28
    for budget in (60, 80, 100):
        number = layers(str(budget))
        peaks = [learner_peak(config, shape, size, n) for n in (number, number - 1)]
        assert peaks[0] <= budget * 1e9 < peaks[1]
    assert layers("1000") == 0
    assert layers("20") == 28, "even where that is not enough"
    assert layers("auto", 80e9) > layers("auto", 141e9)
    assert layers("auto", 100e9) == layers("88"), "with room for the allocator"
    assert layers("auto", 1e12) == 0


def test_a_process_is_looked_at_as_it_is_at_its_least() -> None:
    config = config_of("rt2i", "learner.recompute=auto")
    found = {p: process_case(config, *model_size(config), p) for p in ("runner", "learner")}
    assert found["learner"].peak_bytes == cases_of("rt2i")["learner"].peak_bytes
    assert found["runner"].name == "runner"
    shared = config_of("rt2i", "learner.placement=runners", "learner.gpus=0")
    assert process_case(shared, *model_size(shared), "runner").name == "shared card, 1 of 7"


def test_the_settings_that_make_room_are_those_of_the_process() -> None:
    config = config_of("rt2i")
    assert settings_for_room(config, "runner") == (
        "raise rollout.slices, lower rollout.group_size or lower evaluation.batch_size"
    )
    assert settings_for_room(config, "learner") == (
        "raise rollout.slices or lower rollout.group_size"
    )
    kept = config_of("rt2i", "learner.recompute=none", "model.trainable=experts")
    assert settings_for_room(kept, "learner").startswith(
        "raise learner.ranks, set learner.recompute to all, raise rollout.slices"
    )
