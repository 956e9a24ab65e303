"""What a generator replica does with a request, without Serve: rounds of pictures as events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from alphagrpo.errors import ConfigError, DeadlineExceeded
from alphagrpo.images import ImageLimits, decode_base64_image, encode_png_base64
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.rollout.rounds import Round, ScorePicture, check_rounds, draw_rounds
from alphagrpo.types import Prompt, Score
from services.generator.models import (
    AnswerModel,
    DoneEvent,
    GenerateRequest,
    RoundEvent,
    ScoreModel,
    StageEvent,
    WeightsModel,
)
from services.generator.policy_queue import PolicyQueue
from services.scoring import connect_scorer
from services.settings import GeneratorSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Events = AsyncIterator[StageEvent | RoundEvent | DoneEvent]


class GenerationService:
    """Requests to events, over a policy queue and (for scores) decomposer and verifier."""

    def __init__(
        self, queue: PolicyQueue, settings: GeneratorSettings, score: ScorePicture | None = None
    ) -> None:
        self._queue, self._settings = queue, settings
        self._score = score or connect_scorer(queue.config.services, queue.config.reward)
        self._limits = ImageLimits(
            max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels
        )

    async def events(self, request: GenerateRequest) -> Events:
        """What happens to a request; see :meth:`services.generator.GeneratorDeployment.generate`.

        The work goes on in a task of its own and ends with the caller's interest: a stream that is
        closed cancels what was not drawn yet.
        """
        draft = await self._draft_request(request)
        started, events = perf_counter(), asyncio.Queue[Any]()
        task = asyncio.create_task(self._work(request, draft, events))
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            kept = task.result()
            yield DoneEvent(kept_round=kept, seconds=perf_counter() - started)
        finally:
            task.cancel()

    async def _draft_request(self, request: GenerateRequest) -> PictureRequest:
        """The first picture to draw; ConfigError and BadImage for a request out of bounds."""
        settings = self._settings
        text = request.prompt.strip()
        if not 1 <= len(text) <= settings.max_prompt_chars:
            raise ConfigError(
                f"a prompt has 1 to {settings.max_prompt_chars} characters, got {len(text)}; write "
                "what to draw, in fewer words"
            )
        check_rounds(request.rounds, request.gate, most=settings.max_rounds, can_score=True)
        prompt = Prompt(id="generate", text=text)
        if request.image is None:
            return PictureRequest(prompt=prompt, seed=request.seed)
        if request.rounds:
            raise ConfigError(
                f"an edit has no prompt to refine towards, got an image with {request.rounds} "
                "rounds; leave one of them out"
            )
        pixels = decode_base64_image(request.image, self._limits)
        start = await self._queue.between_batches(lambda: self._queue.encode(pixels))
        return PictureRequest(prompt=prompt, seed=request.seed, start=start, purpose="edit")

    async def _work(
        self, request: GenerateRequest, draft: PictureRequest, events: asyncio.Queue[Any]
    ) -> int:
        """Put the request's events into ``events``; returns the round that is kept."""
        kept, index = 0, 0
        weights = self._queue.weights

        async def draw(requests: Sequence[PictureRequest]) -> Sequence[Picture]:
            nonlocal weights
            events.put_nowait(StageEvent(stage="drawing", round=index))
            (signed,) = await self._queue.draw(requests)
            weights = signed.weights
            return (signed.picture,)

        async def score(prompt: Prompt, pixels: NDArray[np.uint8]) -> Score:
            events.put_nowait(StageEvent(stage="judging", round=index))
            return await self._score(prompt, pixels)

        scorer = score if request.rounds and request.gate == "dvreward" else None
        try:
            async with asyncio.timeout(self._settings.deadline_s) as limit:
                async for one in draw_rounds(
                    draft, rounds=request.rounds, gate=request.gate, draw=draw, score=scorer
                ):
                    kept, index = one.index if one.kept else kept, one.index + 1
                    events.put_nowait(_round_event(one, weights))
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"a request is finished within {self._settings.deadline_s:g} s, waiting included, "
                "this one was not; ask for fewer rounds, or add replicas"
            ) from None
        return kept


def _round_event(one: Round, weights: WeightsModel) -> RoundEvent:
    return RoundEvent(
        round=one.index,
        seed=one.seed,
        thought=one.picture.thought,
        picture=encode_png_base64(one.picture.pixels),
        score=None if one.score is None else _score_model(one.score),
        kept=one.kept,
        refined_from=one.refined_from,
        weights=weights,
    )


def _score_model(score: Score) -> ScoreModel:
    return ScoreModel(
        reward=score.value,
        semantic=score.semantic,
        quality=score.quality,
        program=score.program,
        verdicts=[
            AnswerModel(
                question=question.text,
                kind=question.kind,
                form=question.form,
                p_yes=verdict.p_yes,
                grade=verdict.grade,
            )
            for question, verdict in score.answers()
        ],
    )
