"""An engine that answers from a script, and a tokenizer of single words."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from alphagrpo.judging.engine import ModelInfo

VOCABULARY = ("yes", " yes", "no", " no", "Yes", "No")


class FakeTokenizer:
    """Ids of known spellings; everything else is two tokens."""

    def __init__(self, chat_template: str | None = None, words: Sequence[str] = VOCABULARY) -> None:
        self.chat_template = chat_template
        self.words = list(words)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return [self.words.index(text)] if text in self.words else [900, 901]

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> str:
        assert kwargs == {"tokenize": False, "add_generation_prompt": True}
        return json.dumps(conversation)


class FakeEngine:
    """Records what it is asked. ``answers``: text by prompt; ``p_yes``: probability by prompt;
    ``gate``: what a batch waits for.
    """

    def __init__(
        self,
        *,
        answers: Callable[[str], str] = lambda prompt: "",
        p_yes: Callable[[str], float] = lambda prompt: 0.5,
        tokenizer: FakeTokenizer | None = None,
        gate: Callable[[], Awaitable[Any]] = lambda: asyncio.sleep(0),
    ) -> None:
        self.model = ModelInfo(name="fake", revision="00000001")
        self.tokenizer = tokenizer or FakeTokenizer()
        self.answers, self.p_yes, self.gate = answers, p_yes, gate
        self.prompts: list[str] = []
        self.temperatures: list[float] = []
        self.keys: list[str] = []
        self.choices: list[Sequence[str] | None] = []
        self.batches: list[tuple[str, ...]] = []
        self.cancelled: list[tuple[str, ...]] = []

    async def generate(
        self,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        schema: Mapping[str, Any] | None = None,
        choices: Sequence[str] | None = None,
        pixels: Any = None,
        image_key: str | None = None,
    ) -> str:
        self.prompts.append(prompt)
        self.temperatures.append(temperature)
        self.choices.append(choices)
        if image_key is not None:
            assert pixels is not None
            self.keys.append(image_key)
        await asyncio.sleep(0)
        return self.answers(prompt)

    async def score_tokens(
        self, prompts: Sequence[str], token_ids: Sequence[int], *, pixels: Any, image_key: str
    ) -> list[Mapping[int, float]]:
        self.prompts += prompts
        self.batches.append(tuple(prompts))
        self.keys += [image_key] * len(prompts)
        try:
            await self.gate()
        except asyncio.CancelledError:
            self.cancelled.append(tuple(prompts))
            raise
        return [self._scores(prompt, token_ids) for prompt in prompts]

    def _scores(self, prompt: str, token_ids: Sequence[int]) -> Mapping[int, float]:
        share = self.p_yes(prompt)
        yes = {self.tokenizer.words.index(word) for word in self.tokenizer.words if "es" in word}
        each = {True: share / len(yes), False: (1 - share) / (len(self.tokenizer.words) - len(yes))}
        return {
            token: math.log(each[token in yes]) if each[token in yes] else -math.inf
            for token in token_ids
        }

    async def check_health(self) -> None:
        return None
