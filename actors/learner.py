"""The learner's actors: ranks in processes of their own, the first of which leads."""

from __future__ import annotations

import asyncio
import math
import os
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.parts import Handle, actor_options, answer, said_at_start
from actors.ranks import RayRank, fetched, rank_role
from actors.storage import answer_probe
from actors.weights import connect_weights
from alphagrpo.config import RunConfig
from alphagrpo.deadlines import Deadlines, Whom
from alphagrpo.errors import LearnerLost, ProcessSilent
from alphagrpo.training import TrainingBlock, UpdateReport
from alphagrpo.types import WeightsManifest


class LearnerActor:
    """A rank of the learner. Rank 0 is the central learner: the loop talks to it alone, and it
    hands the others their groups.
    """

    def __init__(self, config: RunConfig, rank: int) -> None:
        # Imported here, so that the driver that describes this actor needs no torch.
        import torch

        from alphagrpo.learner.keeping_step import front_of
        from alphagrpo.learner.learner import GRPOLearner
        from alphagrpo.learner.rank import LocalRank
        from alphagrpo.policy.devices import check_device
        from alphagrpo.policy.loading import load_policy

        torch.set_num_threads(config.rollout.threads)
        self._config = config
        check_device(config, rank_role(rank), "learner")
        self._learner = GRPOLearner(load_policy(config).model, config)
        self._rank = LocalRank(
            self._learner,
            connect_weights(config),
            fetch=fetched,
            host=ray.util.get_node_ip_address(),
            role=rank_role(rank),
        )
        others = () if rank else (RayRank(config, rank_role(i)) for i in range(1, config.num_ranks))
        self._front = front_of([self._rank, *others], config)

    # -- as a rank

    async def rank(self, method: str, *arguments: Any) -> Any:
        """Call a method of :class:`alphagrpo.learner.rank.LocalRank`."""
        return await getattr(self._rank, method)(*arguments)

    # -- as the central learner

    async def start(self) -> None:
        """Bring the ranks together, all of which run."""
        await self._front.start()

    async def begin(self, attempt: int) -> None:
        """Begin an optimizer step."""
        await self._front.begin(attempt)

    async def accumulate(self, block: TrainingBlock) -> None:
        """Have the groups behind the references replayed."""
        await self._front.accumulate(block)

    async def finish(self, denominator: float) -> UpdateReport:
        """The optimizer step."""
        return await self._front.finish(denominator)

    async def publish(self) -> WeightsManifest:
        """Make the current parameters available to the runners under a version."""
        return await self._front.publish()

    async def save(self, folder: str) -> None:
        """Write the learner's state; ``folder`` must be reachable from this node."""
        await self._front.save(folder)

    async def load(self, folder: str) -> int:
        """Restore the learner's state; returns the step."""
        return await self._front.load(folder)

    async def probe(self, folder: str, role: str) -> str:
        """Whether this node sees the driver's ``folder``; see :mod:`actors.storage`."""
        return await asyncio.to_thread(answer_probe, folder, role)

    async def status(self) -> dict[str, Any]:
        """Answered while a step is being computed."""
        learner = self._learner
        return {
            "pid": os.getpid(),
            "step": learner.step,
            "version": learner.version,
            "recomputed": learner.recomputed,
        }


def start_learner(config: RunConfig) -> list[Handle]:
    """The run's ranks, ``alphagrpo:<run>:learner``, ``...:learner-1`` and so on, the central one
    first; their registry must be there.

    Ray does not restart them: a fresh process has the weights of step 0. Whoever runs the steps
    restores them from a checkpoint.
    """
    actor: Any = ray.remote(LearnerActor)
    handles = []
    for rank in range(config.learner.ranks):
        options = actor_options(
            config,
            rank_role(rank),
            cpus=config.learner.cpus,
            gpus=config.learner.gpus,
            selector=config.placement.learner,
        )
        handles.append(
            actor.options(**options, max_restarts=0, max_concurrency=100).remote(config, rank)
        )
    return handles


class RayLearner:
    """:class:`alphagrpo.ports.Learner` over the central actor. Raises LearnerLost once a rank is
    gone or does not answer.
    """

    def __init__(self, config: RunConfig, deadlines: Deadlines | None = None) -> None:
        """Start the ranks."""
        self._config = config
        self._deadlines = deadlines or Deadlines(config.deadlines)
        self.handles = start_learner(config)

    def restart(self) -> None:
        """Other processes, with the weights of step 0."""
        self.kill()
        self.handles = start_learner(self._config)

    async def start(self) -> None:
        """Bring the ranks together, all of which run."""
        await self._ask("start")

    async def begin(self, attempt: int) -> None:
        """Begin an optimizer step."""
        await self._ask("begin", attempt)

    async def accumulate(self, block: TrainingBlock) -> None:
        """Have groups replayed; the references travel, the groups do not."""
        await self._ask("accumulate", block)

    async def finish(self, denominator: float) -> UpdateReport:
        """The optimizer step."""
        report: UpdateReport = await self._ask("finish", denominator)
        return report

    async def publish(self) -> WeightsManifest:
        """Publish the current parameters as a new version."""
        manifest: WeightsManifest = await self._ask("publish")
        return manifest

    async def save(self, folder: str) -> None:
        """Write parameters, optimizer and step into ``folder``."""
        await self._ask("save", folder)

    async def load(self, folder: str) -> int:
        """Restore what :meth:`save` wrote; returns the step."""
        return int(await self._ask("load", folder))

    async def status(self) -> list[dict[str, Any]]:
        """Process id, step and version of each rank, the central one first."""
        return list(await asyncio.gather(*(self._answer(h, "status") for h in self.handles)))

    def kill(self) -> None:
        """End all ranks."""
        for handle in self.handles:
            with suppress(Exception):
                ray.kill(handle, no_restart=True)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Ask the central learner: as long as it takes, if it says now and then that it lives.

        How long it waits for its ranks, itself among them, it decides itself.
        """
        central = self.handles[0]
        whom = Whom(
            name="the central learner",
            kind=method,
            lives=lambda: self._answer(central, "status"),
            allowance_s=math.inf,
        )
        try:
            return await self._deadlines.kept(self._answer(central, method, *arguments), whom)
        except ProcessSilent as error:
            raise LearnerLost(f"{error}; it is started again from the last checkpoint") from None

    async def _answer(self, handle: Handle, method: str, *arguments: Any) -> Any:
        try:
            return await answer(getattr(handle, method).remote(*arguments))
        except RayActorError as error:
            raise said_at_start(error) or LearnerLost(
                f"the learner must stay alive through a step, a process of it died ({error}); "
                "it is restored from the last checkpoint, or resume the run with --resume"
            ) from error
