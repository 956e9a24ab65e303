"""One rollout runner: samples in a thread of its own while earlier groups are being scored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Protocol, TypeVar

from alphagrpo.config import RunConfig
from alphagrpo.config.refinement import DraftConfig
from alphagrpo.policy.devices import computed
from alphagrpo.policy.fit import settings_for_room
from alphagrpo.ports import (
    Draft,
    DraftReport,
    Picture,
    PictureRequest,
    Verifier,
    WeightStore,
)
from alphagrpo.rewards.judging import judge_pictures
from alphagrpo.rewards.programs import configured_program
from alphagrpo.rollout.order import Order, RolloutResult, order_key
from alphagrpo.rollout.pulling import Weighted, use_weights
from alphagrpo.rollout.refining import (
    Drafts,
    drawn_drafts,
    given,
    pick_draft,
    trained_drafts,
)
from alphagrpo.rollout.scoring import ScoredGroup, score_group
from alphagrpo.tasks import refinement_of
from alphagrpo.types import (
    GivenImage,
    Group,
    QuestionSet,
    RolloutJob,
    Trajectory,
)

T = TypeVar("T")

KEPT_GROUPS = 2
"""Sampled groups with missing scores that are remembered, so that only verdicts are retried."""


class Worker(Weighted, Protocol):
    """What a runner needs of :class:`alphagrpo.policy.worker.RolloutWorker`."""

    def sample_group(self, job: RolloutJob) -> Group:
        """All samples of a job, without scores."""
        ...

    def draw_drafts(self, job: RolloutJob) -> tuple[Picture, ...]:
        """Untrained pictures of a job's prompt, one of which is refined."""
        ...

    def sample_refinements(self, job: RolloutJob, draft: GivenImage) -> Group:
        """All samples of a refinement of ``draft``, without scores."""
        ...

    def draw(self, requests: Sequence[PictureRequest]) -> tuple[Picture, ...]:
        """Pictures for evaluation."""
        ...

    def describe(self, trajectory: Trajectory) -> str:
        """A trajectory's thought as text."""
        ...

    @property
    def effect(self) -> float | None:
        """How far the weights in use moved the policy from those before; None for the first."""
        ...


class GroupRunner:
    """Runs jobs over a worker, a verifier and a weight store. Belongs to one event loop."""

    def __init__(
        self,
        worker: Worker,
        verifier: Verifier,
        store: WeightStore,
        config: RunConfig,
        thread: Executor | None = None,
        role: str = "the runner",
    ) -> None:
        """``thread``, of one worker, computes; it is given where others use the model too. ``role``
        names the process to people.
        """
        self._worker, self._verifier, self._store = worker, verifier, store
        self._config = config
        self._program = configured_program(config.reward)
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._computed = partial(computed, role, settings_for_room(config, "runner"))
        self._worker_lock = asyncio.Lock()
        self._unscored: dict[tuple[object, ...], Order] = {}
        self.groups_done = 0

    @property
    def version(self) -> int:
        """Version of the weights in use; -1 before the first."""
        manifest = self._worker.manifest
        return -1 if manifest is None else manifest.version

    async def roll_out(
        self,
        job: RolloutJob,
        questions: QuestionSet,
        *,
        keep_pictures: int = 0,
        draft: Draft | None = None,
    ) -> RolloutResult:
        """Sample with exactly ``job.policy_version``, then score.

        A refinement without a ``draft`` draws and scores its drafts first. A job that comes again
        because scores were missing is not sampled again: the pictures would be the same ones.

        Raises:
            WeightsError: if the version is gone or keeps arriving broken.
            NoQuestions: if the reward program has nothing to ask.
        """
        order = self._order(job, questions, keep_pictures)
        if job.task != "srr":
            if order.group is None:
                order.group = await self._sample(order, self._worker.sample_group, job)
            result = await self._scored(order, order.group)
        elif draft is None:
            result = await self._refined(order)
        else:
            result = await self._refined_from(order, draft)
        self._remember(order, complete=bool(result.group.valid) and all(result.group.valid))
        self.groups_done += 1
        return replace(result, effect=self._worker.effect)

    async def draw_drafts(
        self, job: RolloutJob, questions: QuestionSet, *, keep_pictures: int = 0
    ) -> tuple[DraftReport, GivenImage | None]:
        """Untrained drafts of a refinement, whose slices others draw; and the chosen picture."""
        how = refinement_of(self._config).drafts
        order = self._order(job, questions, keep_pictures)
        if order.drafts is None or not order.drafts.complete:
            order.drafts = await self._drafts(order, how)
        drafts = order.drafts
        chosen = pick_draft(drafts.samples, job, how)
        self._remember(order, complete=drafts.complete)
        report = DraftReport(
            samples=drafts.samples, chosen=chosen, reference=None, runner="", timings=order.timings
        )
        return report, None if chosen is None else drafts.pictures[chosen]

    def _order(self, job: RolloutJob, questions: QuestionSet, keep_pictures: int) -> Order:
        """With what an earlier try at the same job left."""
        order, earlier = (
            Order(job, questions, keep_pictures),
            self._unscored.pop(order_key(job), None),
        )
        if earlier is not None:
            order.pictures, order.drafts = earlier.pictures, earlier.drafts
            order.group = earlier.group
        return order

    def _remember(self, order: Order, *, complete: bool) -> None:
        """Keep what has scores missing, so that another try asks for these alone."""
        if not complete:
            self._unscored[order_key(order.job)] = order
            while len(self._unscored) > KEPT_GROUPS:
                self._unscored.pop(next(iter(self._unscored)))

    async def _scored(self, order: Order, group: Group) -> RolloutResult:
        """The order's group with its scores, kept for another try where some are missing."""
        scored = await self._score(order, group)
        order.group = scored.group
        return RolloutResult(group=scored.group, samples=scored.samples, timings=order.timings)

    async def _score(self, order: Order, group: Group) -> ScoredGroup:
        scored = await score_group(
            group,
            order.questions,
            verifier=self._verifier,
            program=self._program,
            config=self._config,
            describe=self._worker.describe,
            keep_pictures=order.keep_pictures,
        )
        order.verify_s += scored.verify_s
        return scored

    async def _refined(self, order: Order) -> RolloutResult:
        """Both stages. Without a scored draft there is nothing to refine: the report then holds the
        drafts as samples without a reward, and why.
        """
        job, how = order.job, refinement_of(self._config).drafts
        if order.drafts is None or (not order.drafts.complete and order.group is None):
            order.drafts = await self._drafts(order, how)
        drafts, chosen = order.drafts, pick_draft(order.drafts.samples, job, how)
        if chosen is None:
            samples = tuple(replace(sample, reward=None) for sample in drafts.samples)
            return RolloutResult(
                group=Group(job=job, trajectories=()), samples=samples, timings=order.timings
            )
        group = order.group
        if group is None:
            group = await self._sample(
                order, self._worker.sample_refinements, job, drafts.pictures[chosen]
            )
            group = replace(
                group, draft_score=drafts.samples[chosen].score, draft_group=self._usable(drafts)
            )
        result = await self._scored(order, group)
        return replace(result, drafts=drafts.samples, draft=chosen)

    async def _refined_from(self, order: Order, draft: Draft) -> RolloutResult:
        """The second stage alone."""
        if order.group is None:
            picture = given(draft.source, draft.index)
            group = await self._sample(order, self._worker.sample_refinements, order.job, picture)
            order.group = replace(group, draft_score=draft.score)
        return await self._scored(order, order.group)

    async def _drafts(self, order: Order, how: DraftConfig) -> Drafts:
        job, known = order.job, order.drafts
        if how.trained:
            group = known.group if known else None
            if group is None:
                group = await self._sample(
                    order, self._worker.sample_group, replace(job, task="rt2i")
                )
            scored = await self._score(order, group)
            return trained_drafts(scored.group, scored.samples)
        if not order.pictures:
            order.pictures = await self._sample(order, self._worker.draw_drafts, job)
        started = perf_counter()
        answers = await judge_pictures(
            self._program,
            order.questions,
            [picture.pixels for picture in order.pictures],
            self._verifier,
            known=[sample.score for sample in known.samples] if known else (),
        )
        order.verify_s += perf_counter() - started
        return drawn_drafts(job, order.pictures, answers, order.keep_pictures)

    def _usable(self, drafts: Drafts) -> Group | None:
        """The drafts' group if enough of it has rewards to be trained on."""
        group = drafts.group
        enough = group is not None and sum(group.valid) >= self._config.min_valid
        return group if enough else None

    async def _sample(self, order: Order, sample: Callable[..., T], *args: object) -> T:
        """Sample with the version the job names, one call of the worker at a time."""
        async with self._worker_lock:
            started = perf_counter()
            await self._use(order.job.policy_version)
            order.pull_s += perf_counter() - started
            # Timed in the thread, which a rank of the learner may have before it.
            result, seconds = await self._in_thread(_timed, sample, *args)
            order.sampled = perf_counter()
            order.sample_s += seconds
        return result

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        """Pictures for evaluation, drawn with exactly ``version``."""
        async with self._worker_lock:
            await self._use(version)
            return await self._in_thread(self._worker.draw, requests)

    async def _use(self, version: int) -> None:
        await use_weights(self._worker, self._store, version, self._in_thread)

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._computed, function, *args
        )

    def close(self) -> None:
        """Let the worker's thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _timed(function: Callable[..., T], *args: object) -> tuple[T, float]:
    """What a function returns, and the seconds it took."""
    started = perf_counter()
    result = function(*args)
    return result, perf_counter() - started
