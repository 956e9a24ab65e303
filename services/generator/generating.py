"""What a generator replica does, without Serve: a policy, the weights it follows, and requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from alphagrpo.config import load_config
from alphagrpo.errors import CheckpointError, ConfigError, DeadlineExceeded
from alphagrpo.images import ImageLimits, decode_base64_image, encode_png_base64
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.record.folder import RunFolder, find_learner
from alphagrpo.rollout.generation_queue import GenerationQueue
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
from services.paths import project_root
from services.scoring import connect_scorer
from services.settings import GeneratorSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.policy.worker import RolloutWorker

log = logging.getLogger(__name__)

Events = AsyncIterator[StageEvent | RoundEvent | DoneEvent]


@dataclass(frozen=True, slots=True)
class SignedPicture:
    """A picture and the weights that drew it."""

    picture: Picture
    weights: WeightsModel


class _Painter:
    """Draws and signs with the weights in use; called in the drawing thread only."""

    def __init__(self, worker: RolloutWorker) -> None:
        self.worker = worker
        self.weights = WeightsModel(version=-1, source=str(worker.config.model.path))

    def draw(self, requests: Sequence[PictureRequest]) -> list[SignedPicture]:
        return [SignedPicture(picture, self.weights) for picture in self.worker.draw(requests)]

    def load(self, folder: Path) -> None:
        """Change all weights or none; CheckpointError where they cannot be used."""
        from alphagrpo.policy.checkpoint import load_weights

        version = load_weights(self.worker.parameters, folder)
        self.weights = WeightsModel(version=version, source=str(folder))


class PolicyQueue(GenerationQueue[SignedPicture]):
    """A studio whose weights come from a checkpoint, or the newest one of a run folder.

    ``source`` names the folder; None draws with the model as it is.
    """

    def __init__(self, worker: RolloutWorker, source: str | None, **limits: int) -> None:
        self._own = _Painter(worker)
        super().__init__(self._own, **limits)
        self.config, self.source = worker.config, source
        self._changing = asyncio.Lock()

    @property
    def weights(self) -> WeightsModel:
        """Those that draw the next batch."""
        return self._own.weights

    @property
    def model_name(self) -> str:
        """Last part of the base model's folder."""
        return Path(self.config.model.path).name

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every picture."""
        task = self.config.task
        return task.height, task.width

    async def refresh(self) -> bool:
        """Take newer weights if there are any; returns whether they changed.

        A checkpoint that cannot be read (half written, pruned meanwhile, of another model) is left
        alone, and the weights in use stay.
        """
        if self.source is None:
            return False
        async with self._changing:
            try:
                folder = newest_weights(project_root() / self.source)
                if folder is None or str(folder) == self.weights.source:
                    return False
                await self.between_batches(partial(self._own.load, folder))
            except (ConfigError, OSError) as error:
                log.warning("weights of %s are not taken: %s", self.source, error)
                return False
        log.info("weights are now %s", self.weights)
        return True

    def load_now(self) -> None:
        """Before anything is drawn: the newest weights, if the source has any yet.

        Raises CheckpointError where they cannot be used.
        """
        folder = newest_weights(project_root() / self.source) if self.source else None
        if folder is not None:
            self._own.load(folder)

    def encode(self, pixels: NDArray[np.uint8]) -> Any:
        """A picture from outside as what an edit begins from; BadImage for another size."""
        from alphagrpo.policy.starts import encode_start

        return encode_start(self._own.worker.model, pixels, self.config.task)


def newest_weights(folder: Path) -> Path | None:
    """The learner's folder in a checkpoint, or in the newest complete checkpoint of a run folder.

    None for a run without a checkpoint yet. Raises CheckpointError for any other folder.
    """
    if learner := find_learner(folder):
        return learner
    if (folder / "checkpoints").is_dir():
        newest = RunFolder(folder).newest_checkpoint()
        return None if newest is None else newest / "learner"
    raise CheckpointError(
        f"weights are a checkpoint or the folder of a run, {folder} is neither; give runs/<name> "
        "or runs/<name>/checkpoints/step-<number>"
    )


def open_queue(settings: GeneratorSettings) -> PolicyQueue:
    """Load the policy of a generator's settings, with its newest weights.

    Raises ConfigError and CheckpointError for a config or a model that cannot be served.
    """
    import torch

    from alphagrpo.policy.loading import load_policy
    from alphagrpo.policy.worker import RolloutWorker

    config = load_config(project_root() / settings.config, list(settings.overrides))
    model = config.model.model_copy(update={"path": project_root() / config.model.path})
    config = config.model_copy(update={"model": model})
    torch.set_num_threads(config.rollout.threads)
    policy = load_policy(config)
    worker = RolloutWorker(policy.model, policy.tokenizer, config)
    studio = PolicyQueue(
        worker, settings.weights, max_batch=settings.max_batch, max_queued=settings.max_queued
    )
    studio.load_now()
    return studio


class Generating:
    """Requests to events, over a studio and (for scores) both judges."""

    def __init__(
        self, studio: PolicyQueue, settings: GeneratorSettings, score: ScorePicture | None = None
    ) -> None:
        self._studio, self._settings = studio, settings
        self._score = score or connect_scorer(studio.config.services, studio.config.reward)
        self._limits = ImageLimits(
            max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels
        )

    async def events(self, request: GenerateRequest) -> Events:
        """What happens to a request; see :meth:`services.generator.GeneratorDeployment.generate`.

        The work goes on in a task of its own and ends with the caller's interest: a stream that is
        closed cancels what was not drawn yet.
        """
        wanted = await self._checked(request)
        started, queue = perf_counter(), asyncio.Queue[Any]()
        task = asyncio.create_task(self._work(request, wanted, queue))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            kept = task.result()
            yield DoneEvent(kept_round=kept, seconds=perf_counter() - started)
        finally:
            task.cancel()

    async def _checked(self, request: GenerateRequest) -> PictureRequest:
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
        start = await self._studio.between_batches(lambda: self._studio.encode(pixels))
        return PictureRequest(prompt=prompt, seed=request.seed, start=start, purpose="edit")

    async def _work(
        self, request: GenerateRequest, wanted: PictureRequest, queue: asyncio.Queue[Any]
    ) -> int:
        """Put events into ``queue``; returns the round that is kept."""
        kept, index = 0, 0
        weights = self._studio.weights

        async def draw(requests: Sequence[PictureRequest]) -> Sequence[Picture]:
            nonlocal weights
            queue.put_nowait(StageEvent(stage="drawing", round=index))
            (signed,) = await self._studio.draw(requests)
            weights = signed.weights
            return (signed.picture,)

        async def score(prompt: Prompt, pixels: NDArray[np.uint8]) -> Score:
            queue.put_nowait(StageEvent(stage="judging", round=index))
            return await self._score(prompt, pixels)

        scorer = score if request.rounds and request.gate == "dvreward" else None
        try:
            async with asyncio.timeout(self._settings.deadline_s) as limit:
                async for one in draw_rounds(
                    wanted, rounds=request.rounds, gate=request.gate, draw=draw, score=scorer
                ):
                    kept, index = one.index if one.kept else kept, one.index + 1
                    queue.put_nowait(_round_event(one, weights))
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
