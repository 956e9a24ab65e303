"""Reward programs: which questions to ask about a picture, and what the answers are worth.

A new reward is a class with the three members of :class:`RewardProgram`; ``docs/rewards.md`` shows
one. Programs that word their own questions are in :mod:`alphagrpo.rewards.whole`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from alphagrpo.config.programs import is_import_path
from alphagrpo.errors import ConfigError
from alphagrpo.options import Aggregate, Kinds
from alphagrpo.rewards.dvreward import asked_questions, score_verdicts
from alphagrpo.rewards.whole import Holistic, SingleQuestion
from alphagrpo.types import Question, QuestionSet, Score, Verdict

if TYPE_CHECKING:
    from alphagrpo.config.schema import RewardConfig

__all__ = [
    "DVReward",
    "Holistic",
    "RewardProgram",
    "SingleQuestion",
    "asks_the_set",
    "configure",
    "configured_program",
    "load_reward_program",
    "register_reward_program",
    "reward_program",
    "reward_programs",
]


@runtime_checkable
class RewardProgram(Protocol):
    """Turns a question set into questions for the verifier, and their verdicts into a score.

    Where it never looks at the set's own questions, it may say so with ``asks_the_set = False``;
    callers then need no decomposer. Fields ``aggregate`` and ``kinds`` are set from the config.
    """

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
    kinds: Kinds = "all"
    """``semantic`` asks no quality questions: the ablation of them."""

    def questions(self, question_set: QuestionSet) -> tuple[Question, ...]:
        """Those of the set's questions that count; NoQuestions unless each kind has one."""
        return asked_questions(question_set.questions, self.kinds)

    def score(self, question_set: QuestionSet, verdicts: Sequence[Verdict]) -> Score | None:
        """See :func:`alphagrpo.rewards.dvreward.score_verdicts`."""
        return score_verdicts(
            question_set.questions,
            verdicts,
            self.aggregate,
            kinds=self.kinds,
            binary=self.binary,
            program=self.name,
            revision=question_set.revision,
        )


_PROGRAMS: dict[str, RewardProgram] = {}


def register_reward_program(program: RewardProgram) -> None:
    """Make ``program`` available under its name in this process; ConfigError if it is taken."""
    if program.name in _PROGRAMS:
        raise ConfigError(
            f"a reward program named {program.name!r} is registered already; choose another name"
        )
    _PROGRAMS[program.name] = program


def reward_programs() -> tuple[str, ...]:
    """Names of all registered programs, sorted."""
    return tuple(sorted(_PROGRAMS))


def reward_program(name: str) -> RewardProgram:
    """The program called ``name``; raises ConfigError that lists the names there are.

    It imports nothing, so that a name may come from anyone.
    """
    try:
        return _PROGRAMS[name]
    except KeyError:
        raise ConfigError(
            f"no reward program is called {name!r}; choose one of {', '.join(reward_programs())}"
        ) from None


def load_reward_program(name: str) -> RewardProgram:
    """The program called ``name``, or one of class ``package.module:Class`` with its defaults.

    A path imports and runs code: take it from a config, never from a request.

    Raises:
        ConfigError: for an unknown name, and for a path that leads to no reward program.
    """
    if name in _PROGRAMS or not is_import_path(name):
        return reward_program(name)
    module, _, attribute = name.partition(":")
    try:
        program = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"reward program {name!r} must be a class that can be imported and made without "
            f"arguments, {type(error).__name__}: {error}; check the path and PYTHONPATH"
        ) from error
    if not isinstance(program, RewardProgram):
        raise ConfigError(
            f"a reward program has name, questions and score, {name!r} lacks one of them; see "
            "docs/rewards.md"
        )
    return program


def configure(
    program: RewardProgram, *, aggregate: Aggregate = "geometric", kinds: Kinds = "all"
) -> RewardProgram:
    """``program`` with the config's ``aggregate`` and ``kinds``, where it has such fields.

    Raises:
        ConfigError: where quality questions shall be left out of a program that cannot do so.
    """
    fields: set[str] = set()
    if dataclasses.is_dataclass(program):
        fields = {field.name for field in dataclasses.fields(program)}
    if kinds != "all" and "kinds" not in fields:
        raise ConfigError(
            f"reward.kinds {kinds} needs a program with a field kinds, {program.name} has none; "
            "set reward.kinds to all"
        )
    settings: dict[str, Any] = {"aggregate": aggregate, "kinds": kinds}
    changes = {key: value for key, value in settings.items() if key in fields}
    return replace(program, **changes) if changes else program  # type: ignore[type-var]


def configured_program(config: RewardConfig) -> RewardProgram:
    """The reward program a run asks for, by name or import path, set up as it says."""
    return configure(
        load_reward_program(config.program), aggregate=config.aggregate, kinds=config.kinds
    )


def asks_the_set(program: RewardProgram) -> bool:
    """Whether the program needs the decomposer's questions; it does unless it says otherwise."""
    return bool(getattr(program, "asks_the_set", True))


for _program in (
    DVReward(),
    DVReward(name="dvreward_binary", binary=True),
    SingleQuestion(),
    Holistic(),
):
    register_reward_program(_program)
