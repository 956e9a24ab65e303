"""Scoring a group: what counts, what is missing, what is asked once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alphagrpo.errors import NoQuestions
from alphagrpo.images import image_hash
from alphagrpo.rewards.programs import configured_program
from alphagrpo.rollout.scoring import ScoredGroup, score_group
from alphagrpo.types import Group, ImageSegment, Question, TextSegment, Trajectory
from tests.fakes import FakeVerifier, make_config, make_job, make_prompts, make_questions

CONFIG = make_config()
QUESTIONS = make_questions("x")


def make_group(shades: list[int]) -> Group:
    def trajectory(index: int, shade: int) -> Trajectory:
        image = ImageSegment(
            window_start=0,
            latents=np.zeros((2, 1, 1), np.float32),
            log_probs=np.zeros(1, np.float32),
            noise_seed=0,
            final_latents=np.zeros((1, 1), np.float32),
            pixels=np.full((4, 4, 3), shade, np.uint8),
        )
        text = TextSegment(
            token_ids=np.array([index]), log_probs=np.zeros(1, np.float32), finished=True
        )
        return Trajectory(
            id=f"t{index}",
            sample=index,
            seed=0,
            policy_version=0,
            segments=(text, image),
            well_formed=index == 0,
        )

    job = make_job(make_prompts(1)[0], CONFIG)
    return Group(job=job, trajectories=tuple(trajectory(i, s) for i, s in enumerate(shades)))


async def score(group: Group, verifier: FakeVerifier, **options) -> ScoredGroup:
    config = options.pop("config", CONFIG)
    return await score_group(
        group,
        options.pop("questions", QUESTIONS),
        verifier=verifier,
        program=configured_program(config.reward),
        config=config,
        describe=lambda t: f"thought {t.sample}",
        **options,
    )


def shade(pixels: np.ndarray, question: Question) -> float:
    return float(pixels[0, 0, 0]) / 100 if question.kind == "semantic" else 1.0


async def test_reward_is_score_plus_bonus_of_a_well_formed_thought() -> None:
    scored = await score(make_group([25, 36]), FakeVerifier(shade))
    assert scored.group.rewards == pytest.approx((0.5 + 1.0, 0.6))
    assert [s.reward for s in scored.samples] == list(scored.group.rewards)
    assert scored.group.questions == QUESTIONS
    assert scored.group.valid == (True, True)


async def test_no_thought_no_bonus() -> None:
    group = make_group([25, 36])
    silent = [replace(t, segments=t.segments[1:], well_formed=True) for t in group.trajectories]
    scored = await score(replace(group, trajectories=tuple(silent)), FakeVerifier(shade))
    assert scored.group.rewards == pytest.approx((0.5, 0.6))


async def test_refinements_are_rectified_and_earn_the_bonus_of_their_own_section() -> None:
    config = make_config(
        task={"kind": "srr"},
        reward={"format_bonus": 1.0},
        refinement={
            "prompt": "{prompt}",
            "format_bonus": 0.25,
            "rectification": "max",
            "flow": {"num_points": 6, "window": {"length": 2, "allowed": (0, 4)}},
        },
    )
    group = make_group([25, 49, 36])
    scores = (await score(make_group([36]), FakeVerifier(shade))).group.scores
    group = replace(group, job=replace(group.job, task="srr"), draft_score=scores[0])
    scored = await score(group, FakeVerifier(shade), config=config)
    # The first is below its draft's 0.6 and raised to it; its thought alone is well formed.
    assert scored.group.rewards == pytest.approx((0.6 + 0.25, 0.7, 0.6))
    assert [s.score.value for s in scored.samples] == pytest.approx([0.5, 0.7, 0.6])


async def test_aggregate_of_the_config_is_used() -> None:
    config = make_config(reward={"aggregate": "mean", "format_bonus": 0.0})
    scored = await score(make_group([25]), FakeVerifier(shade), config=config)
    assert scored.group.rewards == pytest.approx((0.625,))


async def test_failed_call_leaves_the_sample_without_a_reward_and_says_why() -> None:
    scored = await score(make_group([10, 20, 30]), FakeVerifier(shade, fail_calls=[1]))
    assert scored.group.rewards[1] is None
    assert scored.group.scores[1] is None
    assert scored.group.valid == (True, False, True)
    assert "ServiceUnavailable: the fake verifier is down" in scored.samples[1].invalid_reason
    assert scored.samples[0].invalid_reason == ""


async def test_second_asking_is_about_the_missing_pictures_only() -> None:
    verifier = FakeVerifier(shade, fail_calls=[1])
    first = await score(make_group([10, 20, 30]), verifier)
    second = await score(first.group, verifier)
    assert verifier.calls == 4
    assert all(second.group.valid)
    assert second.group.rewards[0] == first.group.rewards[0]


async def test_identical_pictures_are_asked_about_once() -> None:
    verifier = FakeVerifier()
    scored = await score(make_group([7, 7, 8, 7]), verifier)
    assert verifier.calls == 2
    assert scored.group.scores[0] == scored.group.scores[1] == scored.group.scores[3]
    assert len({s.picture_hash for s in scored.samples}) == 2


async def test_partial_and_contradictory_verdicts_are_no_score() -> None:
    class Lazy(FakeVerifier):
        async def verify(self, pixels, questions):
            verdicts = await super().verify(pixels, questions)
            if pixels[0, 0, 0] == 1:
                return verdicts[:1]
            return (verdicts[0], replace(verdicts[1], question_id="s0"))

    scored = await score(make_group([1, 2]), Lazy())
    assert scored.group.rewards == (None, None)
    assert "left some unanswered" in scored.samples[0].invalid_reason
    assert "twice" in scored.samples[1].invalid_reason


async def test_prompt_with_one_kind_of_question_cannot_be_scored() -> None:
    semantic = replace(QUESTIONS, questions=QUESTIONS.questions[:1])
    with pytest.raises(NoQuestions, match="quality"):
        await score(make_group([1]), FakeVerifier(), questions=semantic)


async def test_pictures_are_kept_where_asked() -> None:
    scored = await score(make_group([1, 2, 3]), FakeVerifier(), keep_pictures=2)
    assert [sample.png is not None for sample in scored.samples] == [True, True, False]
    assert scored.samples[0].png.startswith(b"\x89PNG")


def test_picture_hash_is_of_the_pixels() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert image_hash(pixels) == image_hash(np.array(pixels, order="F"))
    assert image_hash(pixels) != image_hash(pixels + 1)
