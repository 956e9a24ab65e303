"""Scores between the gateway's models and the mesh's records."""

from __future__ import annotations

from collections.abc import Sequence

from alphagrpo.errors import ConfigError
from alphagrpo.ports import Decomposer
from alphagrpo.rewards.judging import questions_for
from alphagrpo.rewards.programs import RewardProgram, asks_the_set
from alphagrpo.types import Prompt, QuestionSet, Score
from services.gateway import models
from services.gateway.verify import as_questions, question_models, verdict_models


def as_prompt(text: str) -> Prompt:
    """A caller's prompt."""
    return Prompt(id="gateway", text=text)


async def question_set(
    program: RewardProgram,
    prompt: str,
    own_questions: Sequence[models.QuestionModel] | None,
    decomposer: Decomposer,
    most: int,
) -> QuestionSet:
    """What ``program`` chooses its questions from: the caller's, or the decomposer's.

    Raises:
        ConfigError: for an empty prompt, for questions that cannot be asked, and for questions
            given to a program that would not ask them.
    """
    if own_questions is None:
        return await questions_for(program, as_prompt(prompt), decomposer)
    if not asks_the_set(program):
        raise ConfigError(
            f"{program.name} words its own questions, got {len(own_questions)} beside it; leave "
            "questions out or choose another program"
        )
    return QuestionSet(prompt=prompt, questions=as_questions(own_questions, most), revision="given")


def score_response(score: Score, questions: QuestionSet) -> models.ScoreResponse:
    """A score as it is sent, with all it is made of."""
    return models.ScoreResponse(
        reward=score.value,
        semantic=score.semantic,
        quality=score.quality,
        program=score.program,
        aggregate=score.aggregate,
        questions=question_models(score.questions),
        verdicts=verdict_models(score.verdicts),
        revision=score.revision or questions.revision,
    )
