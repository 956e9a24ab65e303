"""Decomposition: a prompt becomes atomic yes/no questions, by a program over a text engine.

AlphaGRPO, section 3.1. ``single`` asks for the whole set in one structured answer; ``dsg``
(:mod:`alphagrpo.judging.dsg`) goes step by step and checks each question.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from alphagrpo.errors import ConfigError, NoQuestions
from alphagrpo.judging.dsg import DsgProgram
from alphagrpo.judging.engine import Engine
from alphagrpo.judging.questions import checked, parse_question_set, question_set_schema
from alphagrpo.judging.templates import TemplateName, instruction_prompt
from alphagrpo.types import Question, QuestionSet

log = logging.getLogger(__name__)

ProgramName = Literal["single", "dsg"]

SINGLE_SYSTEM = (
    "You turn a request for a picture into yes/no questions with which a finished picture can be "
    "checked. Semantic questions ask about one stated fact each: an object, a number, a colour, a "
    "place, an absence. Quality questions ask whether what was asked for is drawn well. Word every "
    "question so that yes is the good answer, and add nothing the request does not state. Answer "
    "with JSON: semantic is a list of {q, tag, needs}, where needs lists the indices of semantic "
    "questions that must be yes for this one to make sense; quality is a list of {q, tag}."
)


class DecompositionProgram(Protocol):
    """One way to make questions."""

    name: str

    async def questions(self, prompt: str) -> tuple[Question, ...]:
        """Questions of one attempt or of several; raises NoQuestions with the reason."""
        ...


class SingleProgram:
    """One structured call; a further attempt is warmer, so that it can come out otherwise."""

    name = "single"

    def __init__(
        self,
        engine: Engine,
        *,
        template: TemplateName = "auto",
        max_tokens: int = 2048,
        max_attempts: int = 3,
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        self.engine, self.template = engine, template
        self.max_tokens, self.max_attempts = max_tokens, max_attempts
        self.schema = schema or question_set_schema()

    async def questions(self, prompt: str) -> tuple[Question, ...]:
        """See :class:`DecompositionProgram`."""
        text = instruction_prompt(
            prompt, self.template, self.engine.tokenizer, system=SINGLE_SYSTEM
        )
        for attempt in range(1, self.max_attempts + 1):
            answer = await self.engine.generate(
                text,
                max_tokens=self.max_tokens,
                temperature=0.0 if attempt == 1 else 0.3,
                schema=self.schema,
            )
            try:
                return parse_question_set(answer)
            except NoQuestions as error:
                log.info("attempt %d at %r failed: %s", attempt, prompt, error)
                reason = error
        raise reason


class Decomposition:
    """A program with bounds on what it takes, and the revision it signs its sets with."""

    def __init__(
        self, engine: Engine, program: DecompositionProgram, *, max_prompt_chars: int = 2000
    ) -> None:
        self.engine, self.program = engine, program
        self.max_prompt_chars = max_prompt_chars
        self.revision = f"{program.name}@{engine.model.revision}"
        """``<program>@<model revision>``."""

    async def decompose(self, prompt: str) -> QuestionSet:
        """The question set of ``prompt``.

        Raises NoQuestions for an empty or over-long prompt and for one of which the program could
        make no valid set, ServiceUnavailable where the engine is dead.
        """
        self._check(prompt)
        questions = checked(await self.program.questions(prompt))
        return QuestionSet(prompt=prompt, questions=questions, revision=self.revision)

    def _check(self, prompt: str) -> None:
        if not prompt.strip() or len(prompt) > self.max_prompt_chars:
            raise NoQuestions(
                f"a prompt has 1 to {self.max_prompt_chars} characters, got {len(prompt)}"
                f"{' of white space' if prompt and not prompt.strip() else ''}; shorten or write it"
            )


def make_program(
    name: ProgramName,
    engine: Engine,
    *,
    template: TemplateName = "auto",
    max_tokens: int = 2048,
    max_attempts: int | None = None,
    schema: Mapping[str, Any] | None = None,
) -> DecompositionProgram:
    """The program called ``name``; ``schema`` bounds the sets of ``single``.

    Raises ConfigError for an unknown name.
    """
    if name == "single":
        return SingleProgram(
            engine,
            template=template,
            max_tokens=max_tokens,
            max_attempts=max_attempts or 3,
            schema=schema,
        )
    if name == "dsg":
        return DsgProgram(
            engine, template=template, max_tokens=max_tokens, max_attempts=max_attempts or 5
        )
    raise ConfigError(f"a decomposition program is 'single' or 'dsg', got {name!r}; name one")
