"""The ``dsg`` program: facts, their dependencies, questions, a check and a tag for each, quality.

AlphaGRPO, section 3.1, with the dependency graph kept instead of thrown away.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from alphagrpo.errors import NoQuestions
from alphagrpo.judging import dsg_prompts as text
from alphagrpo.judging.engine import Engine
from alphagrpo.judging.questions import checked
from alphagrpo.judging.templates import TemplateName, instruction_prompt
from alphagrpo.types import Question

log = logging.getLogger(__name__)


class DsgProgram:
    """3 calls for facts, dependencies and questions, 2 for each question, 1 for quality.

    One invalid question fails the whole attempt; after ``max_attempts`` the prompt is refused:
    this is the reference's filter.
    """

    name = "dsg"

    def __init__(
        self,
        engine: Engine,
        *,
        template: TemplateName = "auto",
        max_tokens: int = 2048,
        max_attempts: int = 5,
    ) -> None:
        self.engine, self.template = engine, template
        self.max_tokens, self.max_attempts = max_tokens, max_attempts

    async def questions(self, prompt: str) -> tuple[Question, ...]:
        """Semantic then quality questions of ``prompt``; NoQuestions with the last reason."""
        for attempt in range(1, self.max_attempts + 1):
            try:
                return await self._attempt(prompt, attempt)
            except NoQuestions as error:
                log.info("attempt %d at %r failed: %s", attempt, prompt, error)
                reason = error
        raise NoQuestions(
            f"a prompt yields valid questions within {self.max_attempts} attempts, {prompt!r} did "
            f"not: {reason}; reword it or leave it out"
        )

    async def _attempt(self, prompt: str, attempt: int) -> tuple[Question, ...]:
        # The first try is the likeliest answer; later ones are sampled, or they would be the same.
        heat = 0.0 if attempt == 1 else 0.3
        facts = (await self._ask(text.TUPLES, text.TUPLES_SCHEMA, heat, prompt=prompt))["facts"]
        listed = _numbered(facts)
        needs, worded = await asyncio.gather(
            self._ask(
                text.DEPENDENCIES, text.DEPENDENCIES_SCHEMA, heat, prompt=prompt, facts=listed
            ),
            self._ask(text.QUESTIONS, text.QUESTIONS_SCHEMA, heat, prompt=prompt, facts=listed),
        )
        wording, graph = worded["questions"], needs["needs"]
        if not len(facts) == len(wording) == len(graph):
            raise NoQuestions(
                f"facts, questions and dependencies are as many, got {len(facts)}, {len(wording)} "
                f"and {len(graph)}"
            )
        tags = await asyncio.gather(*(self._check(prompt, question) for question in wording))
        semantic = [
            Question(id=f"s{i}", text=question, kind="semantic", tag=tag, depends_on=_ids(need, i))
            for i, (question, tag, need) in enumerate(zip(wording, tags, graph, strict=True))
        ]
        return checked([*semantic, *await self._quality(prompt, wording)])

    async def _check(self, prompt: str, question: str) -> str:
        """The tag of a fair question; NoQuestions for an unfair one."""
        verdict, tag = await asyncio.gather(
            self._ask(text.VALIDATE, text.VALIDATE_SCHEMA, 0.3, prompt=prompt, question=question),
            self._ask(text.TAG, text.TAG_SCHEMA, 0.3, question=question),
        )
        if verdict["is_valid"] is not True:
            raise NoQuestions(f"{question!r} was judged unfair: {verdict['reason']}")
        return str(tag["aspect_tag"])

    async def _quality(self, prompt: str, semantic: Sequence[str]) -> list[Question]:
        answer = await self._ask(
            text.QUALITY, text.QUALITY_SCHEMA, 0.6, 0.9, prompt=prompt, facts=_numbered(semantic)
        )
        return [
            Question(id=f"q{i}", text=item["question"], kind="quality", tag=item["aspect"])
            for i, item in enumerate(answer["questions"])
        ]

    async def _ask(
        self,
        instruction: str,
        schema: Mapping[str, Any],
        temperature: float,
        top_p: float = 1.0,
        /,
        **parts: str,
    ) -> dict[str, Any]:
        """One structured call. NoQuestions where the answer lacks what the schema asks."""
        # In one pass, because a prompt may itself hold braces.
        filled = re.sub(r"\{(\w+)\}", lambda match: parts[match[1]], instruction)
        prompt = instruction_prompt(
            filled, self.template, self.engine.tokenizer, system=text.SYSTEM
        )
        answer = await self.engine.generate(
            prompt,
            max_tokens=self.max_tokens,
            temperature=temperature,
            top_p=top_p,
            schema=schema,
        )
        try:
            value = json.loads(answer)
        except ValueError as error:
            raise NoQuestions(f"an answer is JSON, got {answer[:120]!r} ({error})") from error
        missing = [key for key in schema["required"] if key not in value]
        if missing:
            raise NoQuestions(f"an answer has {missing}, got {answer[:120]!r}")
        return dict(value)


def _numbered(lines: Sequence[str]) -> str:
    return "\n".join(f"{i}. {line}" for i, line in enumerate(lines, start=1))


def _ids(needs: Sequence[int], own: int) -> tuple[str, ...]:
    """Fact numbers from 1 as question ids; a fact named as its own need is left out."""
    return tuple(f"s{need - 1}" for need in dict.fromkeys(needs) if need - 1 != own)
