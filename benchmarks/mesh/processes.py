"""The processes of a row: objects in this one, or Ray actors that all rows share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from time import process_time
from typing import Any, Protocol
from unittest.mock import patch

from actors import learner as learner_module
from actors.learner import LearnerActor, RayLearner
from actors.parts import Handle, actor_name
from actors.ranks import RayRank, RunnersLearner, fetched, rank_role, runner_role
from alphagrpo.config import RunConfig
from alphagrpo.learner.ranked import RankedLearner
from alphagrpo.ports import Learner
from benchmarks.mesh.stages import Stages
from benchmarks.mesh.stand_ins import Fetch, SleepingRank, SleepingRunner

RUN = "mesh"
"""The one run of all rows: ranks find one another by its name."""
AT_ONCE = 100
"""Calls that an actor answers at a time, as the real ones do."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """What the loop of a row talks to."""

    runners: list[Handle]
    learner: Learner
    central: Handle | None
    """The process of the learner's front; None where that is the driver's."""


class Processes(Protocol):
    """Where the stand-ins of a row are."""

    async def prepare(self, config: RunConfig, stages: Stages) -> Mesh:
        """As many as the config names, which sleep by these stages from now on."""
        ...


class SleepingLearner(LearnerActor):
    """The real actor's shell, its front and what it says to the ranks; its own rank sleeps."""

    def __init__(self, rank: int, fetch: Fetch = fetched) -> None:
        self._own = SleepingRank(asyncio.Lock(), fetch)
        self._rank: Any = self._own
        self._name = rank_role(rank)

    async def prepare(
        self, config: RunConfig, stages: Stages, others: Sequence[Any] | None = None
    ) -> None:
        """Begin anew by these stages, in front of ``others`` too; None: those that Ray knows."""
        self._own.stages = stages
        if others is None:
            others = [RayRank(config, rank_role(i)) for i in range(1, config.learner.ranks)]
        self._front = RankedLearner([self._rank, *others], config)

    async def status(self) -> dict[str, Any]:
        """Who this is, and what it has computed so far."""
        return {"name": self._name, "pid": os.getpid(), "cpu_s": process_time()}


def client(config: RunConfig, central: Handle) -> RayLearner:
    """The real client of a central learner that runs already."""
    with patch.object(learner_module, "start_learner", lambda _: [central]):
        return RayLearner(config)


class RayProcesses:
    """Actors of the connected cluster, started once; they cost next to nothing while they sleep."""

    def __init__(self, num_runners: int, num_ranks: int) -> None:
        import ray

        actor: Any = ray.remote

        def start(kind: type, role: str, index: int) -> Handle:
            name = actor_name(RUN, role)
            return actor(kind).options(name=name, num_cpus=0, max_concurrency=AT_ONCE).remote(index)

        self.runners = [start(SleepingRunner, runner_role(i), i) for i in range(num_runners)]
        self._ranks = [start(SleepingLearner, rank_role(i), i) for i in range(num_ranks)]

    async def ready(self) -> None:
        """Wait until all have started."""
        await asyncio.gather(*(h.status.remote() for h in self.runners + self._ranks))

    async def prepare(self, config: RunConfig, stages: Stages) -> Mesh:
        """See :class:`Processes`."""
        runners = self.runners[: config.rollout.num_runners]
        ranks = self._ranks[: config.learner.ranks]
        await asyncio.gather(*(h.prepare.remote(config, stages) for h in runners + ranks))
        if config.learner.on_runners:
            return Mesh(runners, RunnersLearner(config), None)
        return Mesh(runners, client(config, ranks[0]), ranks[0])


class LocalProcesses:
    """Objects of this event loop: nothing travels, nothing is copied."""

    async def prepare(self, config: RunConfig, stages: Stages) -> Mesh:
        """See :class:`Processes`."""
        runners = [SleepingRunner(index, _itself) for index in range(config.rollout.num_runners)]
        for runner in runners:
            await runner.prepare(config, stages)
        handles = [_LocalHandle(runner) for runner in runners]
        if config.learner.on_runners:
            ranks: list[Any] = [runner.own_rank for runner in runners]
            return Mesh(handles, RankedLearner(ranks, config), None)
        others = [SleepingRank(asyncio.Lock(), _itself) for _ in range(1, config.learner.ranks)]
        for rank in others:
            rank.stages = stages
        central = SleepingLearner(0, _itself)
        await central.prepare(config, stages, others)
        handle = _LocalHandle(central)
        return Mesh(handles, client(config, handle), handle)


class _LocalHandle:
    """An object with an actor handle's face."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> _LocalMethod:
        return _LocalMethod(getattr(self._target, name))


class _LocalMethod:
    """A coroutine method with the face of an actor's."""

    def __init__(self, call: Callable[..., Coroutine[Any, Any, Any]], returns: int = 1) -> None:
        self._call, self._returns = call, returns

    def options(self, *, num_returns: int) -> _LocalMethod:
        return _LocalMethod(self._call, num_returns)

    def remote(self, *arguments: Any) -> Any:
        task = asyncio.create_task(self._call(*arguments))
        if self._returns == 1:
            return task
        return tuple(asyncio.create_task(_part(task, i)) for i in range(self._returns))


async def _part(task: asyncio.Task[Any], index: int) -> Any:
    return (await task)[index]


async def _itself(reference: Any) -> Any:
    return await reference
