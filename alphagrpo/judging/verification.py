"""Verification: all questions about one picture in one call, P(yes) or a grade for each.

AlphaGRPO, section 3.2, with three changes: exact token ids instead of the top 5, an error instead
of 0 where no answer could be had, and the questions of a picture as one batch, for which it is
prepared once and its prefix is computed once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from alphagrpo.errors import ConfigError
from alphagrpo.images import check_pixels, image_hash
from alphagrpo.judging.cache import LruCache
from alphagrpo.judging.engine import Engine
from alphagrpo.judging.grades import BEST, CHOICES, MAX_TOKENS, parse_grade
from alphagrpo.judging.shared import SharedCalls
from alphagrpo.judging.templates import (
    TemplateName,
    resolve,
    template_revision,
    verification_prompt,
)
from alphagrpo.judging.yesno import answer_tokens, p_yes
from alphagrpo.types import Question, QuestionForm, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


CacheKey = tuple[str, ...]
"""Picture, question, judge, form: what one answer is for."""
_PROMPTS_KEPT = 4096


class Ask(NamedTuple):
    """One request to the engine, however many questions share it."""

    text: str
    form: QuestionForm


class Answer(NamedTuple):
    """An answer as verdicts hold it."""

    p_yes: float
    grade: int | None = None


class VerificationProgram:
    """Asks an engine yes/no questions about pictures, and for grades from 0 to 10.

    ``warm_first`` asks one question alone and the rest when it is answered, for an engine that
    finds a picture's prefix only once it is computed. vLLM finds one that the same step computes:
    there it saves nothing and costs a round trip (benchmarks/results/verification.md). Answers are
    kept under (picture, question, judge, form), and what is being asked for one caller is not asked
    again for another.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        template: TemplateName = "auto",
        warm_first: bool = False,
        cache_size: int = 20_000,
        max_questions: int = 256,
        max_question_chars: int = 1000,
    ) -> None:
        self.engine = engine
        self.template: TemplateName = resolve(template, engine.tokenizer)
        self.warm_first = warm_first
        self.max_questions, self.max_question_chars = max_questions, max_question_chars
        self.tokens = answer_tokens(engine.tokenizer)
        self.cache: LruCache[Answer] = LruCache(cache_size)
        self._under_way: SharedCalls[CacheKey, Answer] = SharedCalls()
        self._prompts: LruCache[str] = LruCache(_PROMPTS_KEPT)
        self.judge = f"{engine.model.tag}.{template_revision(self.template, engine.tokenizer)}"
        """``<model>@<model revision>.<template revision>``: what every verdict names."""

    async def verify(
        self, pixels: NDArray[np.uint8], questions: Sequence[Question]
    ) -> tuple[Verdict, ...]:
        """One verdict per question, in order, about ``pixels`` uint8 [H, W, 3].

        Raises BadImage or ConfigError for input out of bounds, ServiceError where an answer could
        not be had: a picture has all its verdicts or none.
        """
        check_pixels(pixels)
        self._check_questions(questions)
        key = image_hash(pixels)
        asks = dict.fromkeys(Ask(question.text, question.form) for question in questions)
        kept = {ask: self.cache.get(self._cache_key(key, ask)) for ask in asks}
        answers = {ask: answer for ask, answer in kept.items() if answer is not None}
        open_asks = {self._cache_key(key, ask): ask for ask in asks if ask not in answers}
        # A picture with known answers is warm in the engine too.
        warm = self.warm_first and not answers

        async def ask_engine(keys: list[CacheKey]) -> dict[CacheKey, Answer]:
            return await self._ask(pixels, key, [open_asks[each] for each in keys], warm)

        told = await self._under_way.get(list(open_asks), ask_engine)
        answers |= {open_asks[each]: answer for each, answer in told.items()}
        return tuple(
            self._verdict(question, answers[Ask(question.text, question.form)])
            for question in questions
        )

    def _verdict(self, question: Question, answer: Answer) -> Verdict:
        return Verdict(
            question_id=question.id, p_yes=answer.p_yes, judge=self.judge, grade=answer.grade
        )

    def _cache_key(self, key: str, ask: Ask) -> CacheKey:
        return (key, ask.text, self.judge, ask.form)

    async def _ask(
        self, pixels: NDArray[np.uint8], key: str, asks: list[Ask], warm: bool
    ) -> dict[CacheKey, Answer]:
        first = asks[:1] if warm and len(asks) > 1 else []
        answers: dict[CacheKey, Answer] = {}
        for batch in (first, asks[len(first) :]):
            if batch:
                found = await self._answers(pixels, key, batch)
                answers |= {self._cache_key(key, ask): answer for ask, answer in found.items()}
        return answers

    async def _answers(
        self, pixels: NDArray[np.uint8], key: str, asks: list[Ask]
    ) -> dict[Ask, Answer]:
        """Answers of one batch, kept as they come."""
        told = [ask for ask in asks if ask.form != "grade"]
        graded = [ask for ask in asks if ask.form == "grade"]
        if not graded:
            return await self._p_yes(pixels, key, told)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._grade(pixels, key, ask)) for ask in graded]
                if told:
                    tasks.append(group.create_task(self._p_yes(pixels, key, told)))
        except BaseExceptionGroup as errors:
            # One failure cancels the rest; callers know single errors, not groups of them.
            raise errors.exceptions[0] from None
        return {ask: answer for task in tasks for ask, answer in task.result().items()}

    async def _p_yes(
        self, pixels: NDArray[np.uint8], key: str, asks: list[Ask]
    ) -> dict[Ask, Answer]:
        prompts = [self._prompt(ask) for ask in asks]
        scores = await self.engine.score_tokens(
            prompts, self.tokens.all, pixels=pixels, image_key=key
        )
        return {
            ask: self._kept(key, ask, Answer(p_yes(log_probs, self.tokens)))
            for ask, log_probs in zip(asks, scores, strict=True)
        }

    async def _grade(self, pixels: NDArray[np.uint8], key: str, ask: Ask) -> dict[Ask, Answer]:
        text = await self.engine.generate(
            self._prompt(ask),
            max_tokens=MAX_TOKENS,
            choices=CHOICES,
            pixels=pixels,
            image_key=key,
        )
        grade = parse_grade(text)
        return {ask: self._kept(key, ask, Answer(grade / BEST, grade))}

    def _kept(self, key: str, ask: Ask, answer: Answer) -> Answer:
        self.cache.put(self._cache_key(key, ask), answer)
        return answer

    def _prompt(self, ask: Ask) -> str:
        """The prompt text; pictures of a group are asked the same questions, one after another."""
        prompt = self._prompts.get((ask.text, ask.form))
        if prompt is None:
            prompt = verification_prompt(ask.text, self.template, self.engine.tokenizer, ask.form)
            self._prompts.put((ask.text, ask.form), prompt)
        return prompt

    def _check_questions(self, questions: Sequence[Question]) -> None:
        if len(questions) > self.max_questions:
            raise ConfigError(
                f"at most {self.max_questions} questions about a picture go together, got "
                f"{len(questions)}; split them"
            )
        for question in questions:
            if not question.text.strip() or len(question.text) > self.max_question_chars:
                raise ConfigError(
                    f"a question has 1 to {self.max_question_chars} characters, {question.id} has "
                    f"{len(question.text)}; reword it"
                )
