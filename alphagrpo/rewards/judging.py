"""The one way to judge a picture: ask a reward program's questions, have them verified, score.

Rollouts, evaluations, the gate of inference rounds, the gateway and the command line all judge
through :func:`judge_picture`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from alphagrpo.errors import ConfigError, ServiceError
from alphagrpo.images import image_hash
from alphagrpo.rewards.programs import RewardProgram, asks_the_set
from alphagrpo.types import Prompt, QuestionSet, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.ports import Decomposer, Verifier

    Pixels = NDArray[np.uint8]


async def questions_for(
    program: RewardProgram, prompt: Prompt, decomposer: Decomposer
) -> QuestionSet:
    """What ``program`` chooses its questions from: the decomposer's, or none of them.

    Raises:
        ConfigError: for an empty prompt given to a program that words its own questions.
        NoQuestions, ServiceUnavailable, DeadlineExceeded: from the decomposer.
    """
    if asks_the_set(program):
        return await decomposer.decompose(prompt)
    return own_questions(prompt)


def own_questions(prompt: Prompt) -> QuestionSet:
    """The empty set of a prompt whose reward program words its own questions."""
    if not prompt.text.strip():
        raise ConfigError("a prompt has characters other than white space, got none; write it")
    return QuestionSet(prompt=prompt.text, questions=(), revision="none")


async def judge_picture(
    program: RewardProgram, question_set: QuestionSet, pixels: Pixels, verifier: Verifier
) -> Score:
    """The score of a picture [H, W, 3] with the questions it answers, all asked in one call.

    Raises:
        NoQuestions: if the program has nothing to ask.
        ServiceError: where a verdict is missing: a score that could not be had is absent, never 0;
            and what the verifier raises.
    """
    questions = program.questions(question_set)
    score = program.score(question_set, await verifier.verify(pixels, questions))
    if score is None:
        raise ServiceError(
            f"a score needs a verdict on each of the picture's {len(questions)} questions, the "
            "verifier left some unanswered; ask again"
        )
    return score if score.questions else replace(score, questions=questions)


async def judge_pictures(
    program: RewardProgram,
    question_set: QuestionSet,
    pictures: Sequence[Pixels],
    verifier: Verifier,
    known: Sequence[Score | None] = (),
) -> list[Score | str]:
    """The score of each picture, or why it could not be had; never 0 for a failure.

    One verification call per picture, all at once; identical pictures are asked about once, those
    with a ``known`` score not at all (AlphaGRPO, DVReward; method: section 11, 10).

    Raises:
        NoQuestions: if the program has nothing to ask.
    """
    # Raised here: a prompt with nothing to ask is an error, not a missing score of each picture.
    program.questions(question_set)
    have = known or [None] * len(pictures)
    hashes = [image_hash(pixels) for pixels in pictures]

    async def ask(pixels: Pixels) -> Score | str:
        try:
            return await judge_picture(program, question_set, pixels, verifier)
        except ServiceError as error:
            return f"{type(error).__name__}: {error}"

    triples = zip(hashes, pictures, have, strict=True)
    unknown = {name: pixels for name, pixels, score in triples if score is None}
    answers = dict(zip(unknown, await asyncio.gather(*map(ask, unknown.values())), strict=True))
    return [
        answers[name] if score is None else score for name, score in zip(hashes, have, strict=True)
    ]
