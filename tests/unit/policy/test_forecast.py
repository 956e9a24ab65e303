"""A step played through: schedules done by hand, and the table of measured figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alphagrpo.config import load_config
from alphagrpo.policy.cards import H200
from alphagrpo.policy.forecast import Forecast, Mesh, StepModel
from alphagrpo.policy.memory import model_size
from alphagrpo.policy.timing import QUESTIONS, QUESTIONS_PER_S, GroupWork
from tests.fakes import make_config

RECIPE = load_config(
    Path(__file__).parents[3] / "deploy/configs/bagel-7b-rt2i.yaml", ["learner.recompute=all"]
)
"""As it was measured."""
SHAPE_AND_SIZE = model_size(RECIPE)
CLOCK = replace(
    H200, matmul_tflops=1.0, denoising_share=1.0, learning_share=1.0, reading_share=1.0, token_s=1.0
)
"""A card that does one TFLOP a second and samples a token a second."""
JUDGED = QUESTIONS_PER_S / QUESTIONS
"""Pictures that one judge's GPU takes a second for."""


def step_model(
    draw: float = 3.0, learn: float = 1.0, verdict: float = 0.0, thinking: float = 0.0, **kw: Any
) -> StepModel:
    """Groups of four samples that take so many seconds; a judge's GPU ``verdict`` for a group.

    Thoughts take as long for a slice as for a group.
    """
    rollout = {"prompts_per_step": 4, **kw.pop("rollout", {})}
    algorithm = {"advantage_std": "group", **kw.pop("algorithm", {})}
    config = make_config(rollout=rollout, algorithm=algorithm, **kw)
    # Weights that cost no time to update and to move.
    size = replace(SHAPE_AND_SIZE[1], lora=0)
    model = StepModel(config, SHAPE_AND_SIZE[0], size, CLOCK)
    model.work = lambda samples: GroupWork(
        denoising=(draw - thinking) * samples / 4,
        token_steps=thinking,
        image_learning=learn * samples / 4,
        pictures=verdict * JUDGED * samples / 4,
    )
    return model


def mesh(runners: int = 2, ranks: int = 1, **others: Any) -> Mesh:
    return Mesh(runners=runners, ranks=ranks, judges=None, **others)


def shared(cards: int = 2, **others: Any) -> Mesh:
    return mesh(cards, cards, shared=True, **others)


def even(forecast: Forecast) -> dict[str, float]:
    return {name: stage.even_s for name, stage in forecast.stages.items()}


@pytest.mark.parametrize(
    ("algorithm", "streamed", "expected"),
    [
        # Drawn at 3, 3, 6, 6.
        ({"advantage_std": "group"}, True, 8),  # learnt 3 to 5, 6 to 8
        ({"advantage_std": "batch", "advantage_prompts": 2}, True, 8),
        ({"advantage_std": "batch", "advantage_prompts": 3}, True, 10),  # first three at 6
        ({"advantage_std": "batch", "advantage_prompts": None}, True, 10),
        ({"advantage_std": "group"}, False, 10),
    ],
)
def test_learning_begins_with_the_first_whole_block(
    algorithm: dict[str, Any], streamed: bool, expected: float
) -> None:
    found = step_model(algorithm=algorithm).forecast(mesh(streamed=streamed))
    assert found.step_s == pytest.approx(expected)
    assert even(found) == pytest.approx({"draw": 6, "verify": 0, "learn": 4})
    assert found.bound_s == pytest.approx(6)
    assert found.efficiency == pytest.approx(6 / expected)
    assert found.busy("learn") == pytest.approx(4 / expected)


def test_a_long_learner_hides_the_drawing_but_its_first_wave() -> None:
    found = step_model(learn=5.0).forecast(mesh())
    assert found.step_s == pytest.approx(3 + 4 * 5)
    assert found.bound_s == pytest.approx(20)


def test_ranks_share_the_groups_in_whole_ones() -> None:
    model = step_model(learn=5.0)
    assert model.forecast(mesh(ranks=2)).step_s == pytest.approx(3 + 2 * 5)
    three = model.forecast(mesh(ranks=3))
    assert three.stages["learn"].busiest_s == pytest.approx(10)
    assert three.stages["learn"].even_s == pytest.approx(20 / 3)


def test_runners_beyond_the_groups_idle_until_groups_are_sliced() -> None:
    model = step_model()
    enough, many = (model.forecast(mesh(runners)) for runners in (4, 8))
    assert enough.step_s == many.step_s == pytest.approx(3 + 4)
    assert many.busy("draw") == pytest.approx(enough.busy("draw") / 2)
    sliced = model.forecast(mesh(8, slices=2))
    assert sliced.step_s == pytest.approx(1.5 + 4)


def test_slices_think_as_long_as_groups() -> None:
    model = step_model(thinking=2.0)
    assert model.forecast(mesh(8, slices=2)).step_s == pytest.approx(2.5 + 4)
    assert model.forecast(mesh(8, slices=2)).draw_work_s == pytest.approx(8 * 2.5)


def test_slices_that_are_not_equal_hold_all_samples() -> None:
    found = step_model().forecast(mesh(1, slices=3))
    assert found.draw_work_s == pytest.approx(4 * 3)
    assert found.learn_work_s == pytest.approx(4 * 1)


def test_verdicts_come_in_the_order_of_drawing_and_delay_what_they_belong_to() -> None:
    """Judged at 5, 7, 9, 11: one judge, two seconds a group; learnt a second after each."""
    model = step_model(verdict=2.0)
    one = model.forecast(replace(mesh(), judges=1))
    assert one.step_s == pytest.approx(12)
    assert even(one)["verify"] == pytest.approx(8)
    assert one.bound_s == pytest.approx(8)
    assert one.busy("verify") == pytest.approx(8 / 12)
    # Judged at 4, 5, 7, 8.
    two = model.forecast(replace(mesh(), judges=2))
    assert two.step_s == pytest.approx(9)
    assert model.forecast(mesh()).step_s == pytest.approx(8), "nobody waits for unknown judges"


def test_shared_cards_draw_their_part_and_learn_it() -> None:
    """Two cards draw until 6 and learn two groups each, whose verdicts came meanwhile."""
    found = step_model().forecast(shared())
    assert found.step_s == pytest.approx(6 + 2)
    assert even(found) == pytest.approx({"shared": 8, "verify": 0})
    assert (found.draw_work_s, found.learn_work_s) == (pytest.approx(12), pytest.approx(4))
    # Judged at 4, 5, 7, 8: the second card waits from 7 for its last.
    late = step_model(verdict=2.0)
    assert late.forecast(replace(shared(), judges=2)).step_s == pytest.approx(9)
    whole = late.forecast(replace(shared(streamed=False), judges=2))
    assert whole.step_s == pytest.approx(8 + 2)


def test_a_shared_card_without_a_group_idles() -> None:
    found = step_model().forecast(shared(8))
    assert found.step_s == pytest.approx(3 + 1)
    assert found.busy("shared") == pytest.approx(0.5)


def test_lag_overlaps_steps_until_the_longest_stage_is_left() -> None:
    model = step_model(learn=2.0)  # drawn in 6, learnt in 8, one after the other 14
    unstreamed = mesh(streamed=False)
    assert model.forecast(unstreamed).step_s == pytest.approx(14)
    assert model.forecast(replace(unstreamed, max_lag=1)).step_s == pytest.approx(8)
    assert model.forecast(replace(unstreamed, max_lag=2)).step_s == pytest.approx(8)


def test_lag_fills_the_last_wave_with_the_next_steps_groups() -> None:
    """Four groups on three runners: two waves alone, eight thirds of a wave on the average."""
    model = step_model(learn=0.1)
    assert model.forecast(mesh(3)).stages["draw"].busiest_s == pytest.approx(6)
    assert model.forecast(mesh(3, max_lag=1)).stages["draw"].busiest_s == pytest.approx(4.5)


def test_a_share_of_a_card_is_a_share_of_its_speed() -> None:
    model = step_model(rollout={"gpus_per_runner": 0.5}, learner={"gpus": 0.25})
    found = model.forecast(mesh())
    assert (found.draw_work_s, found.learn_work_s) == (pytest.approx(24), pytest.approx(16))
    assert model.forecast(shared()).learn_work_s == pytest.approx(8)


def test_the_mesh_is_the_configs() -> None:
    config = make_config(
        rollout={"num_runners": 3, "slices": 2, "max_lag": 1},
        learner={"ranks": 2, "streamed": False},
    )
    expected = Mesh(runners=3, ranks=2, judges=4, slices=2, streamed=False, max_lag=1)
    assert Mesh.of(config, 4) == expected
    on_runners = make_config(rollout={"num_runners": 3}, learner={"placement": "runners"})
    assert Mesh.of(on_runners, None) == Mesh(runners=3, ranks=3, judges=None, shared=True)


# -- the released recipe, against the measured figures: minutes of a step, strictly on policy


@pytest.mark.parametrize(
    ("runners", "ranks", "others", "minutes"),
    [
        (1, 1, {}, 34.4),
        (7, 1, {}, 18.6),
        (56, 1, {}, 16.3),
        (7, 1, {"max_lag": 1}, 15.7),
        (8, 8, {"shared": True}, 4.3),
    ],
)
def test_a_step_of_the_released_recipe_takes_what_the_measured_groups_add_up_to(
    runners: int, ranks: int, others: dict[str, Any], minutes: float
) -> None:
    model = StepModel(RECIPE, *SHAPE_AND_SIZE, H200)
    one = Mesh(runners=runners, ranks=ranks, judges=8, streamed=False, **others)
    assert model.forecast(one).step_s / 60 == pytest.approx(minutes, rel=0.03)


def test_weights_are_updated_and_moved_where_they_are_not_shared() -> None:
    model = StepModel(RECIPE, *SHAPE_AND_SIZE, H200)
    own, on_runners = (model.sync_s(Mesh.of(RECIPE, 2)), model.sync_s(shared(8)))
    assert on_runners == pytest.approx(0.17, rel=0.01)
    assert own - on_runners == pytest.approx(0.25 * 646 / 323, rel=0.05)
    config = RECIPE.model_copy(
        update={"model": RECIPE.model.model_copy(update={"trainable": "experts"})}
    )
    experts = StepModel(config, *SHAPE_AND_SIZE, H200)
    alone, four = (experts.sync_s(mesh(ranks=ranks)) for ranks in (1, 4))
    size = SHAPE_AND_SIZE[1]
    trained = size.understanding + size.generation
    assert alone - four == pytest.approx(0.75 * 0.17 * trained / size.lora, rel=0.01)
