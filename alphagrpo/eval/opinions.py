"""Who looks at held-out pictures, and what they say of each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from alphagrpo.data import sort_of
from alphagrpo.errors import ServiceError
from alphagrpo.eval.lines import HeldOutLine, Opinion, OracleAnswer, VerifierAnswer
from alphagrpo.eval.oracles import ReflectionCheck
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
class Panel:
    """Asks all judges about a picture; ``limit`` bounds how many are verified at once."""

    judges: HeldOutJudges
    limit: asyncio.Semaphore
    questions: dict[str, asyncio.Task[QuestionSet]] = field(default_factory=dict)
    """By prompt id: each prompt is decomposed once, for all its pictures."""

    def decompose_ahead(self, prompts: Iterable[Prompt]) -> None:
        """Have the prompts decomposed while their pictures are drawn."""
        judges = self.judges
        if judges.decomposer is None or judges.verifier is None or judges.program is None:
            return
        for prompt in prompts:
            self._questions(prompt, judges.program, judges.decomposer)

    def close(self) -> None:
        """Cancel decompositions that have not ended yet."""
        for task in self.questions.values():
            task.cancel()

    async def line(self, request: PictureRequest, picture: Picture) -> HeldOutLine:
        """What is written down of a prompt's first picture."""
        prompt = request.prompt
        return HeldOutLine(
            id=prompt.id,
            sort=sort_of(prompt),
            prompt=prompt.text,
            seed=request.seed,
            version=picture.policy_version,
            opinion=await self.opinion(prompt, picture),
        )

    async def opinion(self, prompt: Prompt, picture: Picture) -> Opinion:
        """Thought and content hash, the oracle's answers, the verifier's reward."""
        opinion = by_oracle(prompt, picture, self.judges.oracle)
        async with self.limit:
            return await self._with_verdicts(opinion, prompt, picture.pixels)

    def reflection(self, prompt: Prompt, pixels: Pixels, thought: str) -> ReflectionCheck:
        """How many defects the picture that was reflected on has, and whether one was named."""
        if self.judges.reflection is None:
            return ReflectionCheck()
        return self.judges.reflection(prompt, pixels, thought)

    async def _with_verdicts(self, opinion: Opinion, prompt: Prompt, pixels: Pixels) -> Opinion:
        """With the verifier's verdicts and reward, or the reason why they could not be had."""
        judges = self.judges
        if judges.decomposer is None or judges.verifier is None or judges.program is None:
            return opinion
        try:
            question_set = await self._questions(prompt, judges.program, judges.decomposer)
            score = await judge_picture(judges.program, question_set, pixels, judges.verifier)
        except ServiceError as error:
            return replace(opinion, invalid_reason=f"{type(error).__name__}: {error}")
        answers = tuple(
            VerifierAnswer(question=question.text, kind=question.kind, p_yes=verdict.p_yes)
            for question, verdict in score.answers()
        )
        return replace(opinion, verdicts=answers, dvreward=score.value)

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


def by_oracle(prompt: Prompt, picture: Picture, oracle: Oracle | None) -> Opinion:
    """A picture's thought and content hash with the oracle's answers, if there is an oracle."""
    opinion = Opinion(thought=picture.thought, picture=image_hash(picture.pixels))
    if oracle is None:
        return opinion
    judgement = oracle(prompt, picture.pixels)
    right = [yes for _, yes in judgement.answers]
    return replace(
        opinion,
        oracle=tuple(OracleAnswer(question=q.text, yes=yes) for q, yes in judgement.answers),
        per_question=sum(right) / len(right),
        all_right=judgement.all_right,
        strict=judgement.strict,
        extra=judgement.extra,
    )
