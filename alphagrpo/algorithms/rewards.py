"""Reward programs: which questions to ask about a picture, and what the answers are worth.

A new reward is a class with the three members of :class:`RewardProgram`, registered by name.

A holistic score of 0 to 10 is not among them: the verifier's contract is one P(yes) per question,
and a grade on a scale cannot be read from that without pretending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from alphagrpo.algorithms.dvreward import (
    Aggregate,
    index_verdicts,
    require_both_kinds,
    score_verdicts,
)
from alphagrpo.errors import ConfigError
from alphagrpo.types import Question, QuestionSet, Score, Verdict


@runtime_checkable
class RewardProgram(Protocol):
    """Turns a question set into questions for the verifier, and their verdicts into a score."""

    @property
    def name(self) -> str:
        """What configs call it and scores record."""
        ...

    def questions(self, question_set: QuestionSet) -> tuple[Question, ...]:
        """The questions to ask about every picture of this prompt; raises NoQuestions."""
        ...

    def score(self, question_set: QuestionSet, verdicts: Sequence[Verdict]) -> Score | None:
        """The picture's score, or None if an asked question has no verdict."""
        ...


@dataclass(frozen=True, slots=True)
class DVReward:
    """Decompositional verifiable reward over all questions (AlphaGRPO; method: section 3)."""

    name: str = "dvreward"
    aggregate: Aggregate = "geometric"
    binary: bool = False
    """Count hard yes/no answers in place of confidences."""

    def questions(self, question_set: QuestionSet) -> tuple[Question, ...]:
        """All questions of the set; raises NoQuestions unless both kinds are there."""
        require_both_kinds(question_set.questions)
        return question_set.questions

    def score(self, question_set: QuestionSet, verdicts: Sequence[Verdict]) -> Score | None:
        """See :func:`alphagrpo.algorithms.dvreward.score_verdicts`."""
        return score_verdicts(
            question_set.questions,
            verdicts,
            self.aggregate,
            binary=self.binary,
            program=self.name,
        )


@dataclass(frozen=True, slots=True)
class SingleQuestion:
    """One question about the whole prompt, the baseline that decomposition is compared with."""

    name: str = "single_question"
    template: str = 'does the picture show exactly this : "{prompt}" ?'
    """``{prompt}`` is replaced by the prompt's text, once."""

    def questions(self, question_set: QuestionSet) -> tuple[Question, ...]:
        """The one question; the set's own are not asked."""
        text = self.template.replace("{prompt}", question_set.prompt, 1)
        return (Question(id="whole", text=text, kind="semantic", tag="Whole"),)

    def score(self, question_set: QuestionSet, verdicts: Sequence[Verdict]) -> Score | None:
        """P(yes) of the one question, which also stands as both means of the score."""
        answers = index_verdicts(self.questions(question_set), verdicts)
        if not answers:
            return None
        value = answers["whole"]
        return Score(
            semantic=value,
            quality=value,
            reward=value,
            verdicts=tuple(verdicts),
            program=self.name,
        )


_PROGRAMS: dict[str, RewardProgram] = {}


def register_reward_program(program: RewardProgram) -> None:
    """Make ``program`` available under its name; raises ConfigError if the name is taken."""
    if program.name in _PROGRAMS:
        raise ConfigError(
            f"a reward program named {program.name!r} is registered already; choose another name"
        )
    _PROGRAMS[program.name] = program


def reward_programs() -> tuple[str, ...]:
    """Names of all registered programs, sorted."""
    return tuple(sorted(_PROGRAMS))


def reward_program(name: str) -> RewardProgram:
    """The program called ``name``; raises ConfigError that lists the names there are."""
    try:
        return _PROGRAMS[name]
    except KeyError:
        raise ConfigError(
            f"no reward program is called {name!r}; choose one of {', '.join(reward_programs())}"
        ) from None


for _program in (
    DVReward(),
    DVReward(name="dvreward_binary", binary=True),
    SingleQuestion(),
):
    register_reward_program(_program)
