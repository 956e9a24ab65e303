"""One rollout runner: draws in a thread of its own while earlier groups are being scored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, TypeVar

from alphagrpo.config import RunConfig
from alphagrpo.errors import WeightsError
from alphagrpo.models.weights import Chunk
from alphagrpo.ports import Picture, PictureRequest, Sample, Timings, Verifier, WeightStore
from alphagrpo.rollout.scoring import configured_program, score_group
from alphagrpo.types import Group, QuestionSet, RolloutJob, Trajectory, WeightsManifest

log = logging.getLogger(__name__)
T = TypeVar("T")

PULL_ATTEMPTS = 3
"""How often weights that do not match their checksum are asked for."""
KEPT_GROUPS = 2
"""Drawn groups with missing scores that are remembered, so that only the verdicts are retried."""


class Worker(Protocol):
    """What a runner needs of :class:`alphagrpo.rollout.worker.RolloutWorker`."""

    @property
    def manifest(self) -> WeightsManifest | None:
        """The weights it draws with; None before the first."""
        ...

    def apply_weights(self, manifest: WeightsManifest, chunks: Sequence[Chunk]) -> None:
        """Use other weights, or raise WeightsError and keep the ones there were."""
        ...

    def draw(self, job: RolloutJob) -> Group:
        """All samples of a job, without scores."""
        ...

    def pictures(self, requests: Sequence[PictureRequest]) -> tuple[Picture, ...]:
        """Pictures for evaluation."""
        ...

    def describe(self, trajectory: Trajectory) -> str:
        """A trajectory's thought as text."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A group drawn and scored."""

    group: Group
    samples: tuple[Sample, ...]
    timings: Timings


class GroupRunner:
    """Runs jobs over a worker, a verifier and a weight store. Belongs to one event loop."""

    def __init__(
        self, worker: Worker, verifier: Verifier, store: WeightStore, config: RunConfig
    ) -> None:
        self._worker, self._verifier, self._store = worker, verifier, store
        self._config = config
        self._program = configured_program(config.reward)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draw")
        self._drawing = asyncio.Lock()
        self._unscored: dict[tuple[str, int, int], Group] = {}
        self.groups_done = 0

    @property
    def version(self) -> int:
        """Version of the weights in use; -1 before the first."""
        manifest = self._worker.manifest
        return -1 if manifest is None else manifest.version

    async def roll_out(
        self, job: RolloutJob, questions: QuestionSet, *, keep_pictures: int = 0
    ) -> Finished:
        """Draw with exactly ``job.policy_version``, then score.

        A job that comes again because scores were missing is not drawn again: the pictures would be
        the same ones.

        Raises:
            WeightsError: if the version is gone or keeps arriving broken.
            NoQuestions: if the reward program has nothing to ask.
        """
        key = (job.prompt.id, job.visit, job.policy_version)
        group, pull_s, draw_s = self._unscored.pop(key, None), 0.0, 0.0
        if group is None:
            async with self._drawing:
                started = perf_counter()
                await self._use(job.policy_version)
                pulled = perf_counter()
                group = await self._in_thread(self._worker.draw, job)
                pull_s, draw_s = pulled - started, perf_counter() - pulled
        scored = await score_group(
            group,
            questions,
            verifier=self._verifier,
            program=self._program,
            config=self._config.reward,
            describe=self._worker.describe,
            keep_pictures=keep_pictures,
        )
        if not all(scored.group.valid):
            self._unscored[key] = scored.group
            while len(self._unscored) > KEPT_GROUPS:
                self._unscored.pop(next(iter(self._unscored)))
        self.groups_done += 1
        return Finished(
            group=scored.group,
            samples=scored.samples,
            timings=Timings(draw_s=draw_s, verify_s=scored.verify_s, pull_s=pull_s),
        )

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        """Pictures for evaluation, drawn with exactly ``version``."""
        async with self._drawing:
            await self._use(version)
            return await self._in_thread(self._worker.pictures, requests)

    async def _use(self, version: int) -> None:
        """Pull ``version`` unless the worker has it, bit for bit (a restarted learner may have
        published other weights under the same number).
        """
        own, newest = self._worker.manifest, await self._store.newest()
        same_bits = newest is None or newest.version != version or own == newest
        if own is not None and own.version == version and same_bits:
            return
        for attempt in range(1, PULL_ATTEMPTS + 1):
            manifest, chunks = await self._store.fetch(version)
            try:
                await self._in_thread(self._worker.apply_weights, manifest, chunks)
                return
            except WeightsError as error:
                log.warning("weights %d refused (attempt %d): %s", version, attempt, error)
                if attempt == PULL_ATTEMPTS:
                    raise

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def close(self) -> None:
        """Let the drawing thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)
