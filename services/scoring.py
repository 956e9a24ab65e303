"""Scoring one picture of a prompt over both services: for the gate of rounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alphagrpo.config.schema import RewardConfig, ServiceConfig
from alphagrpo.ports import Decomposer, Verifier
from alphagrpo.rewards.judging import judge_picture, questions_for
from alphagrpo.rewards.programs import configured_program
from alphagrpo.rollout.rounds import ScorePicture
from services.client import (
    connect_decomposer,
    connect_verifier,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.types import Prompt, Score


def scorer_over(decomposer: Decomposer, verifier: Verifier, reward: RewardConfig) -> ScorePicture:
    """Scores pictures by the configured program's questions about their prompts."""
    program = configured_program(reward)

    async def score(prompt: Prompt, pixels: NDArray[np.uint8]) -> Score:
        question_set = await questions_for(program, prompt, decomposer)
        return await judge_picture(program, question_set, pixels, verifier)

    return score


def connect_scorer(
    services: ServiceConfig, reward: RewardConfig, store: Path | None = None
) -> ScorePicture:
    """:func:`scorer_over` the applications a run config names; nothing is contacted yet."""
    return scorer_over(
        connect_decomposer(**services.decomposer_options(store)),
        connect_verifier(**services.verifier_options()),
        reward,
    )
