"""Who looks at held-out pictures, and what is written down of each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alphagrpo.data import sort_of
from alphagrpo.errors import ServiceError
from alphagrpo.images import image_hash
from alphagrpo.rewards.judging import judge_picture, questions_for

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.eval.oracles import Oracle, ReflectionOracle
    from alphagrpo.ports import Decomposer, Picture, PictureRequest, Verifier
    from alphagrpo.rewards.programs import RewardProgram
    from alphagrpo.types import Prompt, QuestionSet

    Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutJudges:
    """Who looks at held-out pictures. Any of them may be missing; its figures are then null."""

    oracle: Oracle | None = None
    reflection: ReflectionOracle | None = None
    """Knows what is really wrong with a picture, to measure reflections by."""
    decomposer: Decomposer | None = None
    verifier: Verifier | None = None
    program: RewardProgram | None = None


@dataclass(frozen=True, slots=True)
class PictureJudge:
    """Asks all judges about one picture; ``limit`` bounds how many are verified at once."""

    judges: HeldOutJudges
    limit: asyncio.Semaphore
    questions: dict[str, asyncio.Task[QuestionSet]] = field(default_factory=dict)
    """By prompt id: each prompt is decomposed once, for all its pictures."""

    def ask_ahead(self, prompts: Iterable[Prompt]) -> None:
        """Have the prompts decomposed while their pictures are drawn."""
        judges = self.judges
        if judges.decomposer is None or judges.verifier is None or judges.program is None:
            return
        for prompt in prompts:
            self._questions(prompt, judges.program, judges.decomposer)

    def close(self) -> None:
        """Forget what was asked and is not answered yet."""
        for task in self.questions.values():
            task.cancel()

    async def line(self, request: PictureRequest, picture: Picture) -> dict[str, Any]:
        """What is written down of a prompt's first picture."""
        prompt = request.prompt
        return {
            "id": prompt.id,
            "sort": sort_of(prompt),
            "prompt": prompt.text,
            "seed": request.seed,
            "version": picture.policy_version,
        } | await self.opinion(prompt, picture)

    async def opinion(self, prompt: Prompt, picture: Picture) -> dict[str, Any]:
        """Thought and content hash, the oracle's answers, the verifier's reward."""
        seen = {"thought": picture.thought, "picture": image_hash(picture.pixels)}
        seen |= by_oracle(prompt, picture.pixels, self.judges.oracle)
        async with self.limit:
            return seen | await self._by_verifier(prompt, picture.pixels)

    def reflection(self, prompt: Prompt, shown: Pixels, thought: str) -> dict[str, Any]:
        """How many defects the picture that was reflected on has, and whether one was named."""
        if self.judges.reflection is None:
            return {"defects": None, "named": None}
        return self.judges.reflection(prompt, shown, thought)

    async def _by_verifier(self, prompt: Prompt, pixels: Pixels) -> dict[str, Any]:
        """The verifier's verdicts and reward; null with the reason where they could not be had."""
        nothing: dict[str, Any] = {"verdicts": [], "dvreward": None, "invalid_reason": ""}
        judges = self.judges
        if judges.decomposer is None or judges.verifier is None or judges.program is None:
            return nothing
        try:
            question_set = await self._questions(prompt, judges.program, judges.decomposer)
            score = await judge_picture(judges.program, question_set, pixels, judges.verifier)
        except ServiceError as error:
            return nothing | {"invalid_reason": f"{type(error).__name__}: {error}"}
        return {
            "verdicts": [
                {"question": question.text, "kind": question.kind, "p_yes": verdict.p_yes}
                for question, verdict in score.answers()
            ],
            "dvreward": score.value,
            "invalid_reason": "",
        }

    def _questions(
        self, prompt: Prompt, program: RewardProgram, decomposer: Decomposer
    ) -> asyncio.Task[QuestionSet]:
        task = self.questions.get(prompt.id)
        if task is None:
            task = asyncio.ensure_future(questions_for(program, prompt, decomposer))
            # Looked at, so that asyncio does not report a failure nobody came to ask about.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self.questions[prompt.id] = task
        return task


def by_oracle(prompt: Prompt, pixels: Pixels, oracle: Oracle | None) -> dict[str, Any]:
    """The oracle's answers about a picture; null without an oracle."""
    if oracle is None:
        return {
            "oracle": [],
            "per_question": None,
            "all_right": None,
            "strict": None,
            "extra": None,
        }
    opinion = oracle(prompt, pixels)
    right = [yes for _, yes in opinion.answers]
    return {
        "oracle": [{"question": question.text, "yes": yes} for question, yes in opinion.answers],
        "per_question": sum(right) / len(right),
        "all_right": opinion.all_right,
        "strict": opinion.strict,
        "extra": opinion.extra,
    }
