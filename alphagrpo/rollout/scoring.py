"""From a generated group to rewards: one verification call per picture, all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from alphagrpo.config import RunConfig
from alphagrpo.images import encode_png, image_hash
from alphagrpo.ports import Sample, Verifier
from alphagrpo.rewards.judging import judge_pictures
from alphagrpo.rewards.programs import RewardProgram
from alphagrpo.rewards.rectification import rectify
from alphagrpo.tasks import refinement_of
from alphagrpo.types import Group, QuestionSet, Score, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group with its rewards, and its samples as people look at them."""

    group: Group
    samples: tuple[Sample, ...]
    verify_s: float
    """From the first call to the last answer."""


async def score_group(
    group: Group,
    questions: QuestionSet,
    *,
    verifier: Verifier,
    program: RewardProgram,
    config: RunConfig,
    describe: Callable[[Trajectory], str],
    keep_pictures: int = 0,
) -> ScoredGroup:
    """Ask about every picture of ``group`` that has no score yet.

    A picture whose score cannot be had leaves its sample without a reward, and says why. Rewards of
    a refinement are rectified against its draft's score; the format bonus comes after that.

    Args:
        group: as sampled, or as an earlier call left it: scores it has are kept.
        questions: of its prompt.
        verifier: whom to ask.
        program: which questions to ask and what the answers are worth.
        config: weights of the format bonus, added to scores of runs that think; rectification.
        describe: a trajectory's thought as text.
        keep_pictures: how many samples carry their picture as PNG.

    Raises:
        NoQuestions: if the program has nothing to ask.
    """
    started = perf_counter()
    answers = await judge_pictures(
        program,
        questions,
        [trajectory.image.pixels for trajectory in group.trajectories],
        verifier,
        known=group.scores,
    )
    verify_s = perf_counter() - started
    scores = tuple(answer if isinstance(answer, Score) else None for answer in answers)
    samples = tuple(
        Sample(
            id=trajectory.id,
            thought=describe(trajectory),
            score=scores[index],
            reward=reward,
            png=encode_png(trajectory.image.pixels) if index < keep_pictures else None,
            picture_hash=image_hash(trajectory.image.pixels),
            invalid_reason="" if isinstance(answers[index], Score) else str(answers[index]),
        )
        for index, (trajectory, reward) in enumerate(
            zip(group.trajectories, _rewards(group, scores, config), strict=True)
        )
    )
    scored = replace(
        group,
        questions=questions,
        scores=scores,
        rewards=tuple(sample.reward for sample in samples),
    )
    return ScoredGroup(group=scored, samples=samples, verify_s=verify_s)


def _rewards(group: Group, scores: Sequence[Score | None], config: RunConfig) -> list[float | None]:
    """What the advantage is computed from: scores, rectified in a refinement, plus the bonus."""
    bonus, values = config.reward.format_bonus, [score.value if score else None for score in scores]
    if group.job.task == "srr":
        refinement = refinement_of(config)
        assert group.draft_score is not None, "only a scored draft is refined"
        bonus = refinement.format_bonus
        # Before the bonus: whether a refinement improved its picture is not a matter of its form.
        values = rectify(values, group.draft_score.value, refinement.rectification)
    return [
        # A run that does not think has nothing to be well formed.
        None if value is None else value + bonus * float(t.well_formed and bool(t.texts))
        for value, t in zip(values, group.trajectories, strict=True)
    ]
