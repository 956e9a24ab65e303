"""The arithmetic of time, against what was measured on an H200 and against FLOPs done by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alphagrpo.config import RunConfig, load_config
from alphagrpo.config.sampling import FlowConfig, GuidanceConfig, WindowConfig
from alphagrpo.errors import ConfigError
from alphagrpo.flow import Window
from alphagrpo.models.bagel.config import tiny_config
from alphagrpo.models.bagel.sizes import BagelShape
from alphagrpo.policy.cards import CARDS, H200, card_of
from alphagrpo.policy.denoising import FlowPlan
from alphagrpo.policy.memory import model_size
from alphagrpo.policy.timing import (
    GroupWork,
    group_work,
    num_branches,
    questions_per_picture,
    weighted_sum,
)
from tests.fakes import make_config

CONFIGS = Path(__file__).parents[3] / "deploy/configs"
REFINEMENT: dict[str, Any] = {
    "prompt": "it should be {prompt}",
    "share": 0.25,
    "flow": {
        "num_points": 6,
        "window": {"length": 2, "allowed": (0, 4)},
        "guidance": {"text_scale": 3.0, "image_scale": 2.0, "interval": (0.0, 1.0)},
    },
    "drafts": {"num": 3, "num_points": 4},
}
SIZE = replace(model_size(load_config(CONFIGS / "bagel-7b-rt2i.yaml"))[1], embeddings=300)


class FlatShape(BagelShape):
    """One operation a token, whatever it sees."""

    def forward_flops(self, tokens: int, keys: float) -> float:
        return float(tokens)


FLAT = FlatShape(tiny_config())


def released(name: str, thought_tokens: int) -> tuple[RunConfig, GroupWork]:
    """With all layers recomputed, as it was measured."""
    config = load_config(CONFIGS / f"bagel-7b-{name}.yaml")
    shape, size = model_size(config)
    work = group_work(
        config, shape, size, samples=14, thought_tokens=thought_tokens, recomputed=1.0
    )
    return config, work


def flat_work(
    kind: str = "rt2i", samples: int = 4, recomputed: float = 0.0, **sections: Any
) -> GroupWork:
    """In operations, not in TFLOP."""
    refinement = sections.pop("refinement", None if kind == "rt2i" else REFINEMENT)
    task = {"kind": kind, **sections.pop("task", {})}
    config = make_config(task=task, refinement=refinement, **sections)
    work = group_work(
        config, FLAT, SIZE, samples=samples, thought_tokens=128, recomputed=recomputed
    )
    return weighted_sum([(1e12, work)])


def test_one_branch_of_a_released_picture_is_14_tflop() -> None:
    """1,026 tokens after a context of 237: the measured group's unit."""
    flops = BagelShape.released().forward_flops(1026, 1026 + 237)
    assert flops == pytest.approx(13.9e12, rel=0.005)


def test_operations_of_a_forward_by_hand() -> None:
    """Two layers of hidden 32, inner 48, four heads of 8, two of them for keys and values."""
    layer = 2 * (32 * 32 + 32) + 2 * (32 * 16 + 16) - 32 + 2 * 8 + 2 * 32 + 3 * 32 * 48
    weights = 2 * layer + 32
    attention = 4 * 2 * 32 * 10
    assert BagelShape(tiny_config()).forward_flops(5, 10) == 5 * (2 * weights + attention)


def test_drawing_a_group_takes_what_was_measured() -> None:
    """35.1 s: thoughts of 128 tokens 21.8, denoising 12.6, decoding 0.28."""
    _, work = released("rt2i", 128)
    assert work.draw_s(H200) == pytest.approx(35.1, rel=0.15)
    assert work.thinking_s(H200) == pytest.approx(21.8, rel=0.01)
    assert work.denoising / (803 * 0.54) == pytest.approx(12.6, rel=0.05)
    assert work.pixels * H200.decode_s == pytest.approx(0.28, rel=0.01)


@pytest.mark.parametrize(("tokens", "seconds"), [(128, 29.4), (1024, 36.4)])
def test_learning_a_group_takes_what_was_measured(tokens: int, seconds: float) -> None:
    _, work = released("rt2i", tokens)
    assert work.learn_s(H200) == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize(("tokens", "step_s", "text_s"), [(128, 2.82, 1.2), (1024, 3.04, 6.0)])
def test_the_parts_of_learning_are_near_what_was_measured(
    tokens: int, step_s: float, text_s: float
) -> None:
    _, work = released("rt2i", tokens)
    assert work.image_learning / 10 / (803 * 0.51) == pytest.approx(step_s, rel=0.05)
    assert work.text_learning / (803 * 0.10) == pytest.approx(text_s, rel=0.35)


def test_refining_takes_what_was_measured() -> None:
    """Thoughts of 1,024: 39 steps of three branches 62 s, a window step 5.18 s."""
    config, work = released("srr", 1024)
    drafts = 7 * sum(num_branches(GuidanceConfig(), 40, 3.0, guided=True, has_image=False))
    stage2 = work.denoising - drafts * 13.9
    assert stage2 / (803 * 0.54) == pytest.approx(62, rel=0.15)
    steps = config.refinement.flow.window.length if config.refinement else 0
    assert work.image_learning / steps / (803 * 0.51) == pytest.approx(5.18, rel=0.15)


@pytest.mark.parametrize("num_points", [2, 6, 11, 12, 16, 23, 40])
@pytest.mark.parametrize("shift", [1.0, 1.1, 3.0])
@pytest.mark.parametrize("interval", [(0.4, 1.0), (0.0, 1.0), (0.2, 0.6)])
@pytest.mark.parametrize("has_image", [False, True])
def test_branches_are_those_of_the_flow_plan(
    num_points: int, shift: float, interval: tuple[float, float], has_image: bool
) -> None:
    """But where a point of the schedule lies on a bound: there float32 rounds it to either side."""
    guidance = GuidanceConfig(text_scale=4.0, image_scale=2.0, interval=interval)
    window = WindowConfig(length=1, allowed=(0, 1))
    flow = FlowConfig(num_points=num_points, shift=shift, guidance=guidance, window=window)
    for guided in (True, False):
        plan = FlowPlan.for_training(flow, Window(0, 1), guided=guided, has_image=has_image)
        found = num_branches(guidance, num_points, shift, guided=guided, has_image=has_image)
        assert len(found) == num_points - 1
        for step, branches in enumerate(found):
            if min(abs(plan.times[step] - bound) for bound in interval) > 1e-6 or step == 0:
                assert branches == plan.num_branches(step), step


def test_a_group_by_hand() -> None:
    """5 steps at t = 1, .92, .82, .67, .43: all above 0.4; windows of 3; 4 + 2 tokens a picture."""
    work = flat_work()
    text = 4 * ((6 + 2) + 6 * SIZE.embeddings)
    prefix = len("plan first") // 4 + 128
    assert work.denoising == pytest.approx(4 * 5 * 2 * 6)
    assert work.reading == pytest.approx(prefix + text)
    assert work.image_learning == pytest.approx(4 * 3 * 2 * 6 * 2)
    assert work.text_learning == pytest.approx(prefix + text * 2)
    assert (work.token_steps, work.pictures) == (6e12, 4e12), "a thought is cut at its cap"
    assert work.pixels == pytest.approx(4 * 32 * 32 * 1e6)


def test_a_window_counts_the_branches_of_the_places_where_it_may_start() -> None:
    """Guided above 0.7 are the first 3 of 5 steps: windows of 3 from 0 or 1 hold 6 and 5."""
    guidance = {"interval": (0.7, 1.0)}
    flow = {"num_points": 6, "window": {"length": 3, "allowed": (0, 4)}, "guidance": guidance}
    work = flat_work(rollout={"flow": flow})
    assert work.denoising == pytest.approx(4 * (3 * 2 + 2) * 6)
    assert work.image_learning == pytest.approx(4 * (6 + 5) / 2 * 6 * 2)


@pytest.mark.parametrize(
    ("sections", "image", "text"),
    [
        ({}, 2, 2),
        ({"recomputed": 1.0}, 3, 3),
        ({"recomputed": 0.25}, 2.25, 2.25),
        ({"model": {"trainable": "experts"}}, 3, 3),
        ({"algorithm": {"image": {"kl_weight": 0.1}}}, 3, 2),
        ({"algorithm": {"text": {"kl_weight": 0.1}}}, 2, 3),
        ({"algorithm": {"image": {"enabled": False}}}, 0, 2),
    ],
)
def test_what_a_trained_forward_costs(sections: dict[str, Any], image: float, text: float) -> None:
    work, forward = flat_work(**sections), flat_work()
    assert work.image_learning == pytest.approx(forward.image_learning / 2 * image)
    read = forward.text_learning - forward.reading
    assert work.text_learning == pytest.approx(forward.reading + read * (text - 1))
    assert work.drawing == forward.drawing


def test_without_guidance_in_training_neither_side_has_a_second_branch() -> None:
    work = flat_work(algorithm={"image": {"guidance_in_training": False}})
    assert work.denoising == pytest.approx(4 * 5 * 6)
    assert work.image_learning == pytest.approx(4 * 3 * 6 * 2)


def test_a_run_without_thinking_samples_and_scores_no_token() -> None:
    work = flat_work(task={"think": False}, reward={"format_bonus": 0.0})
    assert work.token_steps == 0
    assert work.reading == pytest.approx(len("plan first") // 4 + 128)


def test_refining_draws_drafts_first_and_repeats_its_rounds() -> None:
    once = flat_work("srr")
    drafts = 3 * (2 + 2 + 2) * 6
    assert once.denoising == pytest.approx(drafts + 4 * 5 * 3 * 6)
    assert once.image_learning == pytest.approx(4 * 2 * 3 * 6 * 2), "drafts are not trained"
    assert once.pictures == pytest.approx(7e12)
    twice = flat_work("srr", refinement=REFINEMENT | {"rounds": 2})
    assert twice.denoising - drafts == pytest.approx(2 * (once.denoising - drafts))
    assert twice.image_learning == pytest.approx(2 * once.image_learning)
    assert twice.pictures == once.pictures, "the last round's are judged"
    # The second round's prefix holds another picture for each of the four samples.
    prefix = 2 + 128 + 5 + FLAT.picture_tokens(32, 32)
    text = 4 * ((6 + 2) + 6 * SIZE.embeddings)
    assert twice.reading - once.reading == pytest.approx(4 * prefix + text)


def test_trained_drafts_are_a_group_that_is_learnt_too() -> None:
    trained = flat_work("srr", refinement=REFINEMENT | {"drafts": {"trained": True}})
    drawing = flat_work()
    alone = flat_work("srr").image_learning
    assert trained.image_learning == pytest.approx(alone + drawing.image_learning)
    assert trained.pictures == pytest.approx(8e12)


def test_a_mixed_run_is_the_average_prompt() -> None:
    mixed, refining, drawing = (flat_work(kind) for kind in ("mixed", "srr", "rt2i"))
    for name in ("denoising", "reading", "image_learning", "pictures"):
        expected = 0.25 * getattr(refining, name) + 0.75 * getattr(drawing, name)
        assert getattr(mixed, name) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("program", "expected"),
    [("dvreward", 45), ("dvreward_binary", 45), ("holistic", 1), ("my_reward:Mine", 45)],
)
def test_questions_of_a_picture(program: str, expected: int) -> None:
    assert questions_per_picture(make_config(reward={"program": program})) == expected


def test_cards_that_nobody_measured_are_scaled_and_say_so() -> None:
    a100 = card_of("a100")
    assert a100.matmul_tflops == pytest.approx(803 * 312 / 989)
    assert a100.token_s == H200.token_s, "the host launches as slowly"
    assert H200.source.startswith("measured")
    assert all(card.source.startswith("estimate") for card in CARDS.values() if card != H200)
    with pytest.raises(ConfigError, match=r"one of H200, H100, A100, got 'B200'"):
        card_of("B200")
