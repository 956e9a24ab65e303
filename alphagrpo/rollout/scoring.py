"""From a drawn group to rewards: one verification call per picture, all of them at once."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from alphagrpo.algorithms import RewardProgram, configure, load_reward_program, rectify
from alphagrpo.algorithms.rectification import Rectification
from alphagrpo.config import RunConfig
from alphagrpo.config.schema import RewardConfig
from alphagrpo.errors import ServiceError
from alphagrpo.ports import Sample, Verifier
from alphagrpo.rollout.recipe import refinement_of
from alphagrpo.types import Group, QuestionSet, Score, Trajectory

NOT_ALL_ANSWERED = "the verifier answered only some of the picture's questions"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group with its rewards, and its samples as people look at them."""

    group: Group
    samples: tuple[Sample, ...]
    verify_s: float
    """From the first call to the last answer."""


def configured_program(config: RewardConfig) -> RewardProgram:
    """The reward program a run asks for, by name or import path, set up as it says."""
    return configure(
        load_reward_program(config.program), aggregate=config.aggregate, kinds=config.kinds
    )


async def score_pictures(
    pictures: Sequence[NDArray[np.uint8]],
    questions: QuestionSet,
    *,
    verifier: Verifier,
    program: RewardProgram,
    known: Sequence[Score | None] = (),
) -> list[Score | str]:
    """The score of each picture [H, W, 3], or why it could not be had; never 0 for a failure.

    One verification call per picture, all at once; identical pictures are asked about once, those
    with a ``known`` score not at all (AlphaGRPO, DVReward; method: section 11, 10).

    Raises:
        NoQuestions: if the program has nothing to ask.
    """
    asked = program.questions(questions)
    have = known or [None] * len(pictures)
    hashes = [picture_hash(pixels) for pixels in pictures]

    async def ask(pixels: NDArray[np.uint8]) -> Score | str:
        try:
            score = program.score(questions, await verifier.verify(pixels, asked))
        except ServiceError as error:
            return f"{type(error).__name__}: {error}"
        return NOT_ALL_ANSWERED if score is None else score

    triples = zip(hashes, pictures, have, strict=True)
    unknown = {name: pixels for name, pixels, score in triples if score is None}
    answers = dict(zip(unknown, await asyncio.gather(*map(ask, unknown.values())), strict=True))
    pairs = zip(hashes, have, strict=True)
    return [answers[name] if score is None else score for name, score in pairs]


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
        group: as drawn, or as an earlier call left it: scores it has are kept.
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
    answers = await score_pictures(
        [trajectory.image.pixels for trajectory in group.trajectories],
        questions,
        verifier=verifier,
        program=program,
        known=group.scores,
    )
    verify_s = perf_counter() - started
    scores = tuple(answer if isinstance(answer, Score) else None for answer in answers)
    weight, values = config.reward.format_bonus, [s.reward if s else None for s in scores]
    if group.job.task == "srr":
        how = refinement_of(config)
        assert group.draft_score is not None, "only a scored draft is refined"
        weight = how.format_bonus
        values = rectified(values, group.draft_score.reward, how.rectification)
    samples = []
    for index, (trajectory, answer) in enumerate(zip(group.trajectories, answers, strict=True)):
        value = values[index]
        bonus = weight * float(trajectory.well_formed) if trajectory.texts else 0.0
        samples.append(
            Sample(
                id=trajectory.id,
                thought=describe(trajectory),
                score=scores[index],
                reward=None if value is None else value + bonus,
                png=as_png(trajectory.image.pixels) if index < keep_pictures else None,
                picture_hash=picture_hash(trajectory.image.pixels),
                invalid_reason=answer if isinstance(answer, str) else "",
            )
        )
    scored = replace(
        group,
        questions=questions,
        scores=scores,
        rewards=tuple(sample.reward for sample in samples),
    )
    return ScoredGroup(group=scored, samples=tuple(samples), verify_s=verify_s)


def rectified(
    values: Sequence[float | None], initial: float, mode: Rectification
) -> list[float | None]:
    """:func:`alphagrpo.algorithms.rectify` of a group, absent rewards left absent."""
    valid = torch.tensor([value is not None for value in values])
    rewards = torch.tensor([value or 0.0 for value in values], dtype=torch.float64)
    found = rectify(rewards, initial, mode, valid).tolist()
    return [None if value is None else found[i] for i, value in enumerate(values)]


def picture_hash(pixels: NDArray[np.uint8]) -> str:
    """sha256 of the pixels [H, W, 3], hex: the picture's name in the run folder."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    """A picture [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
