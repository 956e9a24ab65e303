"""Scoring one picture of a prompt over both services: for the gate of rounds and the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alphagrpo.config.schema import RewardConfig, ServiceConfig
from alphagrpo.errors import ServiceError
from alphagrpo.ports import Decomposer, Verifier
from alphagrpo.rollout.rounds import Judge, Judged
from alphagrpo.rollout.scoring import configured_program
from services.client import (
    connect_decomposer,
    connect_verifier,
    decomposer_options,
    verifier_options,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.algorithms import RewardProgram
    from alphagrpo.types import Prompt, QuestionSet


async def score_picture(
    program: RewardProgram, made: QuestionSet, pixels: NDArray[np.uint8], verifier: Verifier
) -> Judged:
    """The score of ``pixels`` [H, W, 3] and what was asked.

    Raises ServiceError where a verdict is missing: a score that could not be had is no score.
    """
    asked = program.questions(made)
    score = program.score(made, await verifier.verify(pixels, asked))
    if score is None:
        raise ServiceError("a score needs a verdict on every question; ask again")
    return Judged(score=score, questions=asked)


def judge_over(decomposer: Decomposer, verifier: Verifier, reward: RewardConfig) -> Judge:
    """A judge that asks the questions of the prompt and scores by the configured program."""
    program = configured_program(reward)

    async def judge(prompt: Prompt, pixels: NDArray[np.uint8]) -> Judged:
        made = await decomposer.decompose(prompt)
        return await score_picture(program, made, pixels, verifier)

    return judge


def connect_judge(
    services: ServiceConfig, reward: RewardConfig, store: Path | None = None
) -> Judge:
    """:func:`judge_over` the applications a run config names; nothing is contacted yet."""
    return judge_over(
        connect_decomposer(**decomposer_options(services, store)),
        connect_verifier(**verifier_options(services)),
        reward,
    )
