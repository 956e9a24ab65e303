"""From a drawn group to rewards: one verification call per picture, all of them at once."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alphagrpo.algorithms import RewardProgram, format_bonus, reward_program
from alphagrpo.config.schema import RewardConfig
from alphagrpo.errors import ServiceError
from alphagrpo.ports import Sample, Verifier
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
    """The reward program a run asks for, with its aggregate where it has one."""
    program = reward_program(config.program)
    if dataclasses.is_dataclass(program) and hasattr(program, "aggregate"):
        return replace(program, aggregate=config.aggregate)  # type: ignore[type-var]
    return program


async def score_group(
    group: Group,
    questions: QuestionSet,
    *,
    verifier: Verifier,
    program: RewardProgram,
    config: RewardConfig,
    describe: Callable[[Trajectory], str],
    keep_pictures: int = 0,
) -> ScoredGroup:
    """Ask about every picture of ``group`` that has no score yet.

    Identical pictures are asked about once. A picture whose score cannot be had leaves its sample
    without a reward, and says why; it is never 0 (AlphaGRPO, DVReward; method: section 11, 10).

    Args:
        group: as drawn, or as an earlier call left it: scores it has are kept.
        questions: of its prompt.
        verifier: whom to ask.
        program: which questions to ask and what the answers are worth.
        config: the weight of the format bonus, added to scores of runs that think.
        describe: a trajectory's thought as text.
        keep_pictures: how many samples carry their picture as PNG.

    Raises:
        NoQuestions: if the program has nothing to ask.
    """
    asked = program.questions(questions)
    known = group.scores or (None,) * len(group.trajectories)
    hashes = [picture_hash(t.image.pixels) for t in group.trajectories]

    async def ask(pixels: NDArray[np.uint8]) -> Score | str:
        try:
            score = program.score(questions, await verifier.verify(pixels, asked))
        except ServiceError as error:
            return f"{type(error).__name__}: {error}"
        return NOT_ALL_ANSWERED if score is None else score

    started = perf_counter()
    pictures = {
        name: trajectory.image.pixels
        for name, trajectory, score in zip(hashes, group.trajectories, known, strict=True)
        if score is None
    }
    answers = dict(zip(pictures, await asyncio.gather(*map(ask, pictures.values())), strict=True))
    verify_s = perf_counter() - started

    samples, scores = [], []
    for index, (trajectory, name) in enumerate(zip(group.trajectories, hashes, strict=True)):
        answer = answers.get(name, known[index])
        score = answer if isinstance(answer, Score) else None
        thought = describe(trajectory)
        bonus = config.format_bonus * format_bonus(thought) if trajectory.text else 0.0
        samples.append(
            Sample(
                id=trajectory.id,
                thought=thought,
                score=score,
                reward=None if score is None else score.reward + bonus,
                png=as_png(trajectory.image.pixels) if index < keep_pictures else None,
                picture_hash=name,
                invalid_reason=answer if isinstance(answer, str) else "",
            )
        )
        scores.append(score)
    scored = replace(
        group,
        questions=questions,
        scores=tuple(scores),
        rewards=tuple(sample.reward for sample in samples),
    )
    return ScoredGroup(group=scored, samples=tuple(samples), verify_s=verify_s)


def picture_hash(pixels: NDArray[np.uint8]) -> str:
    """sha256 of the pixels [H, W, 3], hex: the picture's name in the run folder."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    """A picture [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
