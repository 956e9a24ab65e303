"""All actors of one run, and the event loop that talks to them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import ray

from actors.cluster import check_room
from actors.learner import RayLearner
from actors.parts import Handle, Part, actor_name, answer
from actors.pool import RayRolloutPool
from actors.ranks import RunnersLearner, rank_role, runner_role
from actors.storage import check_storage
from actors.waiting import StartWatch
from actors.weights import registry_answer, start_registry
from alphagrpo.capacity import LEARNER, REGISTRY, RUNNER
from alphagrpo.config import RunConfig
from alphagrpo.deadlines import Deadlines
from alphagrpo.errors import EnvironmentProblem, RegistryLost

log = logging.getLogger(__name__)
T = TypeVar("T")

STOP_SECONDS = 10.0
"""How long the loop's thread may take to end."""


class Mesh:
    """Registry, learner and runners of a run. Make it inside the event loop that will use it."""

    def __init__(
        self, config: RunConfig, verifier: Part, tell: Callable[[str], None] | None = None
    ) -> None:
        """Start all actors, where the cluster has or may have room for them.

        Args:
            config: of the run.
            verifier: makes an :class:`alphagrpo.ports.Verifier` in each runner.
            tell: is given a line while actors wait for a node; default the log.

        Raises:
            EnvironmentProblem: where there can be no room, or a run of this name trains already.
        """
        self._config = config
        self._watch = StartWatch(config, tell)
        self._tell = tell or log.warning
        deadlines = Deadlines(config.deadlines, tell)
        _refuse_second_run(config.name)
        check_room(config)
        self.registry = start_registry(config)
        self.learner: RayLearner | RunnersLearner
        if config.learner.on_runners:
            self.learner = RunnersLearner(config, deadlines)
        else:
            self.learner = RayLearner(config, deadlines)
        self.pool = RayRolloutPool(config, verifier, self._watch, deadlines)

    async def ready(self) -> None:
        """Wait until every actor has loaded its model.

        Raises what one of them could not do, EnvironmentProblem after ``placement.deadline_s``.
        """
        there = answer(self.registry.newest.remote())
        answers = asyncio.gather(there, self.learner.status(), self.pool.ready())
        _, ranks, _ = await self._watch.wait(answers, self._actors)
        setting = self._config.learner.recompute
        if setting not in ("none", "all"):
            numbers = ", ".join(str(status["recomputed"]) for status in ranks)
            self._tell(
                f"layers that each rank recomputes, by learner.recompute {setting}: {numbers}"
            )
        await self.learner.start()

    async def check_storage(self, folder: Path) -> None:
        """Raise EnvironmentProblem where learner or runners see another ``folder`` than this
        process.
        """
        runners = {runner_role(i): handle for i, handle in enumerate(self.pool.handles)}
        ranks = {rank_role(i): handle for i, handle in enumerate(self.learner.handles)}
        await check_storage(folder, ranks | runners)

    async def restart_learner(self) -> None:
        """Other ranks, with the weights of step 0; raises as :meth:`ready`."""
        if isinstance(self.learner, RunnersLearner):
            self.pool.restart()
            self.learner.forget()
        else:
            self.learner.restart()
        # The registry may have been lost with the learner's node.
        there = answer(self.registry.newest.remote())
        answers = asyncio.gather(there, self.learner.status())
        await self._watch.wait(answers, self._actors)
        await self.learner.start()

    async def has_weights(self, version: int) -> bool:
        """Whether the registry, which may have been lost and started again, knows a version.

        One that is silent is ended, so that Ray starts another under its name.
        """
        limit_s = self._config.deadlines.ping_s
        try:
            newest = await registry_answer(self.registry.newest.remote(), limit_s)
        except RegistryLost as error:
            log.warning("%s", error)
            ray.kill(self.registry, no_restart=False)
            await self._watch.wait(answer(self.registry.newest.remote()), self._actors)
            return False
        return newest is not None and newest.version >= version

    def _actors(self) -> dict[str, list[Handle]]:
        return {
            LEARNER: self.learner.handles,
            REGISTRY: [self.registry],
            RUNNER: self.pool.handles,
        }

    async def end(self) -> None:
        """As :meth:`close`, once nobody waits for an actor any more."""
        await self.pool.end()
        self.close()

    def close(self) -> None:
        """End all actors of the run."""
        self.pool.close()
        self.learner.kill()
        with suppress(Exception):
            ray.kill(self.registry, no_restart=True)


class EventLoop:
    """An event loop in a thread of its own, so that waiting work goes on between two steps."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mesh", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end; an interrupt of the waiting thread cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                with suppress(CancelledError, Exception):
                    future.result(STOP_SECONDS)
            raise

    def close(self) -> None:
        """Stop the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)


def _refuse_second_run(run: str) -> None:
    for role in (rank_role(0), runner_role(0)):
        with suppress(ValueError):
            ray.get_actor(actor_name(run, role))
            raise EnvironmentProblem(
                f"one run of a name trains at a time, {run!r} has actors on this cluster already; "
                "stop that run or give this one another name"
            )
