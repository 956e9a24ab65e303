"""Verification: all questions about one picture in one call, P(yes) for each.

AlphaGRPO, section 3.2, with three changes: exact token ids instead of the top 5, an error instead
of 0 where no answer could be had, and the picture's prefix computed once for all its questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alphagrpo.errors import ConfigError
from alphagrpo.judging.cache import LruCache
from alphagrpo.judging.engine import Engine
from alphagrpo.judging.images import check_pixels, image_hash
from alphagrpo.judging.templates import (
    TemplateName,
    resolve,
    template_revision,
    verification_prompt,
)
from alphagrpo.judging.yesno import answer_tokens, p_yes
from alphagrpo.types import Question, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class VerificationProgram:
    """Asks an engine yes/no questions about pictures.

    ``warm_first`` asks one question alone and the rest when it is answered, so that they all find
    the picture's prefix in the engine's cache; it costs one round trip and pays where a picture is
    longer than a cache block. Answers are kept under (picture, question, judge).
    """

    def __init__(
        self,
        engine: Engine,
        *,
        template: TemplateName = "auto",
        warm_first: bool = True,
        cache_size: int = 100_000,
        max_questions: int = 256,
        max_question_chars: int = 1000,
    ) -> None:
        self.engine = engine
        self.template: TemplateName = resolve(template, engine.tokenizer)
        self.warm_first = warm_first
        self.max_questions, self.max_question_chars = max_questions, max_question_chars
        self.tokens = answer_tokens(engine.tokenizer)
        self.cache: LruCache[float] = LruCache(cache_size)
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
        texts = list(dict.fromkeys(question.text for question in questions))
        known = {text: self.cache.get((key, text, self.judge)) for text in texts}
        answers = {text: value for text, value in known.items() if value is not None}
        open_texts = [text for text in texts if text not in answers]
        # A picture that was asked about before is warm in the engine too.
        warm = self.warm_first and not answers
        answers |= await self._ask(pixels, key, open_texts, warm)
        return tuple(
            Verdict(question_id=question.id, p_yes=answers[question.text], judge=self.judge)
            for question in questions
        )

    async def _ask(
        self, pixels: NDArray[np.uint8], key: str, texts: list[str], warm: bool
    ) -> dict[str, float]:
        answers: dict[str, float] = {}
        if warm and len(texts) > 1:
            answers[texts[0]] = await self._answer(pixels, key, texts[0])
            texts = texts[1:]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {text: group.create_task(self._answer(pixels, key, text)) for text in texts}
        except BaseExceptionGroup as errors:
            # One failure cancels the rest; callers know single errors, not groups of them.
            raise errors.exceptions[0] from None
        return answers | {text: task.result() for text, task in tasks.items()}

    async def _answer(self, pixels: NDArray[np.uint8], key: str, text: str) -> float:
        prompt = verification_prompt(text, self.template, self.engine.tokenizer)
        log_probs = await self.engine.score_tokens(
            prompt, self.tokens.all, pixels=pixels, image_key=key
        )
        value = p_yes(log_probs, self.tokens)
        self.cache.put((key, text, self.judge), value)
        return value

    def _check_questions(self, questions: Sequence[Question]) -> None:
        if len(questions) > self.max_questions:
            raise ConfigError(
                f"a picture is asked at most {self.max_questions} questions at once, got "
                f"{len(questions)}; split them"
            )
        for question in questions:
            if not question.text.strip() or len(question.text) > self.max_question_chars:
                raise ConfigError(
                    f"a question has 1 to {self.max_question_chars} characters, {question.id} has "
                    f"{len(question.text)}; reword it"
                )
