"""All rollout runners as one pool: who samples next, and what happens when one dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ray.exceptions import ObjectLostError, RayActorError

from actors.parts import Handle, Part, answer, said_at_start
from actors.ranks import rank_lost, runner_role
from actors.runners import PICTURES, Runner
from actors.waiting import StartWatch
from alphagrpo.capacity import RUNNER
from alphagrpo.config import RunConfig
from alphagrpo.deadlines import Deadlines
from alphagrpo.errors import EnvironmentProblem, ProcessSilent
from alphagrpo.ports import Draft, DraftReport, GroupReport, Picture, PictureRequest
from alphagrpo.types import QuestionSet, RolloutJob

log = logging.getLogger(__name__)
T = TypeVar("T")


class RayRolloutPool:
    """:class:`alphagrpo.ports.RolloutPool` over rollout actors. Belongs to one event loop.

    A runner that dies is taken out, its jobs go to the others with the same seeds, and it returns
    once it answers again; one that is silent is ended first. Jobs wait while no runner is up; the
    pool gives up when all are gone for good.
    """

    def __init__(
        self,
        config: RunConfig,
        verifier: Part,
        watch: StartWatch | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        self._config = config
        self._watch = watch or StartWatch(config)
        deadlines = deadlines or Deadlines(config.deadlines)
        rollout = config.rollout
        self._runners = [
            Runner(config, index, verifier, deadlines) for index in range(rollout.num_runners)
        ]
        self._in_flight = rollout.groups_in_flight
        self._changed = asyncio.Condition()
        self._reviving: set[asyncio.Task[None]] = set()
        self._cause: Exception | None = None
        self.restarts = 0

    @property
    def size(self) -> int:
        """How many groups are worth having in flight at once."""
        return self._config.rollout.num_runners * self._config.rollout.groups_in_flight

    @property
    def handles(self) -> list[Handle]:
        """Of all runners, lost ones included."""
        return [runner.handle for runner in self._runners]

    async def ready(self) -> list[dict[str, Any]]:
        """Wait until all runners have loaded their model; their statuses.

        Raises:
            MeshError: what a runner said when it could not start.
            EnvironmentProblem: where it said nothing of ours.
        """
        try:
            calls = [answer(runner.handle.status.remote()) for runner in self._runners]
            return list(await asyncio.gather(*calls))
        except RayActorError as error:
            raise said_at_start(error) or EnvironmentProblem(
                f"every rollout runner must start, one did not: {error}; fix the cause "
                "(often memory, or a path that does not exist on that node) and start again"
            ) from error

    async def roll_out(
        self,
        job: RolloutJob,
        questions: QuestionSet,
        *,
        keep_pictures: int = 0,
        draft: Draft | None = None,
    ) -> GroupReport:
        """Sample and score one group, or a slice of one, on whichever runner has room."""
        source = None if draft is None else draft.source
        chosen = None if draft is None else replace(draft, source=None)

        async def call(handle: Handle) -> GroupReport:
            method = handle.roll_out.options(num_returns=2)
            # An argument by itself is fetched by the runner; inside a record it would not be.
            report, group = method.remote(job, questions, keep_pictures, chosen, source)
            return replace(await answer(report), reference=group)

        kind = f"a group, {job.task}"
        if self._config.learner.on_runners:
            return await self._there(self._runners[job.ranks[0]], kind, call)
        return await self._anywhere(kind, call, job.size)

    async def draw_drafts(
        self, job: RolloutJob, questions: QuestionSet, *, keep_pictures: int = 0
    ) -> DraftReport:
        """Draw and score untrained drafts on whichever runner has room."""

        async def call(handle: Handle) -> DraftReport:
            method = handle.draw_drafts.options(num_returns=2)
            report, picture = method.remote(job, questions, keep_pictures)
            return replace(await answer(report), reference=picture)

        return await self._anywhere("drafts", call)

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        """Draw pictures for evaluation, a batch at a time on every runner that has room."""
        size = self._config.evaluation.batch_size
        batches = [tuple(requests[i : i + size]) for i in range(0, len(requests), size)]

        async def call(batch: tuple[PictureRequest, ...], handle: Handle) -> tuple[Picture, ...]:
            return tuple(await answer(handle.draw.remote(batch, version)))

        results = await asyncio.gather(
            *(self._anywhere(PICTURES, partial(call, batch)) for batch in batches)
        )
        return tuple(picture for batch in results for picture in batch)

    async def _there(self, runner: Runner, kind: str, call: Callable[[Handle], Awaitable[T]]) -> T:
        """Run ``call`` on the one runner that is to learn what it draws.

        Raises:
            LearnerLost: if its process is lost, which is a rank of the learner.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: runner.jobs < self._in_flight)
            runner.jobs += 1
        try:
            return await runner.answer(kind, call)
        except (RayActorError, ProcessSilent) as error:
            raise rank_lost(runner_role(runner.index), error) from error
        finally:
            await self._give_back(runner)

    async def _anywhere(
        self, kind: str, call: Callable[[Handle], Awaitable[T]], samples: int = 0
    ) -> T:
        """Run ``call`` on a runner; again on another where the process was lost on the way."""
        losses = 0
        while True:
            runner = await self._take(samples)
            life = runner.lives
            try:
                return await runner.answer(kind, call)
            except (RayActorError, ObjectLostError, ProcessSilent) as error:
                losses += 1
                log.warning(
                    "runner %d was lost with a job, which moves on: %s", runner.index, error
                )
                if runner.lives == life:
                    self._lose(runner, error)
                if losses > self._config.rollout.max_retries + self._config.rollout.num_runners:
                    raise EnvironmentProblem(
                        f"a job may lose {losses - 1} runners, this one lost {losses}: {error}; "
                        "it probably kills them: look for memory in the runners' logs"
                    ) from error
            finally:
                await self._give_back(runner, samples)

    async def _take(self, samples: int) -> Runner:
        """The runner with the fewest samples to draw among those that are up and have room."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._free() is not None or not self._hope())
            runner = self._free()
            if runner is None:
                raise EnvironmentProblem(
                    f"at least one rollout runner must be alive, all are gone: {self._cause}; "
                    "resume once the cause is fixed"
                )
            runner.jobs += 1
            runner.samples += samples
            return runner

    def _free(self) -> Runner | None:
        free = [r for r in self._runners if r.up and r.jobs < self._in_flight]
        return min(
            free, key=lambda runner: (runner.samples, runner.jobs, runner.index), default=None
        )

    def _hope(self) -> bool:
        return any(runner.up for runner in self._runners) or bool(self._reviving)

    async def _give_back(self, runner: Runner, samples: int = 0) -> None:
        async with self._changed:
            runner.jobs -= 1
            runner.samples -= samples
            self._changed.notify_all()

    def _lose(self, runner: Runner, error: Exception) -> None:
        if runner.up:
            runner.up, self._cause = False, error
            task = asyncio.create_task(self._revive(runner))
            self._reviving.add(task)

    async def _revive(self, runner: Runner) -> None:
        """Wait until the runner is back, for ``placement.deadline_s``; then use it again."""
        try:
            await self._watch.wait(runner.back(), lambda: {RUNNER: [runner.handle]})
            self.restarts += 1
        except Exception as error:  # a task of its own: nobody else would see it
            log.error("runner %d does not come back: %s", runner.index, error)
            self._cause = error
        finally:
            task = asyncio.current_task()
            async with self._changed:
                if task is not None:
                    self._reviving.discard(task)
                self._changed.notify_all()

    async def status(self) -> list[dict[str, Any]]:
        """What each runner that is up says of itself."""
        up = [runner for runner in self._runners if runner.up]
        return list(await asyncio.gather(*(answer(r.handle.status.remote()) for r in up)))

    def restart(self) -> None:
        """Other processes for all runners, which nobody waits for any more."""
        self.close()
        for runner in self._runners:
            runner.start()

    async def end(self) -> None:
        """End all runners, and whoever waits for one to come back."""
        self.close()
        await asyncio.gather(*self._reviving, return_exceptions=True)

    def close(self) -> None:
        """End all runners."""
        for task in self._reviving:
            task.cancel()
        for runner in self._runners:
            runner.end()
