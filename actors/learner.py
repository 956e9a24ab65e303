"""The learner actor: the one process that changes weights."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.parts import CONTROL, Handle, actor_options, answer
from actors.storage import answer_probe
from actors.weights import connect_weights
from alphagrpo.config import RunConfig
from alphagrpo.errors import EnvironmentProblem
from alphagrpo.ports import TrainingBatch, UpdateReport
from alphagrpo.types import WeightsManifest


class LearnerDied(EnvironmentProblem):
    """The learner's process is gone, and with it every step since the last checkpoint."""


class LearnerActor:
    """A :class:`alphagrpo.learner.learner.GRPOLearner` that takes groups by reference."""

    def __init__(self, config: RunConfig) -> None:
        # Imported here, so that the driver that describes this actor needs no torch.
        import torch

        from alphagrpo.learner.learner import GRPOLearner
        from alphagrpo.policy.loading import load_policy

        torch.set_num_threads(config.rollout.threads)
        self._learner = GRPOLearner(load_policy(config).model, config)
        self._store = connect_weights(config)

    def update(self, batch: TrainingBatch) -> UpdateReport:
        """One GRPO step on the groups behind the references, fetched one after the other."""
        groups = tuple(replace(g, reference=ray.get(g.reference)) for g in batch.groups)
        return self._learner.update(replace(batch, groups=groups))

    def publish(self) -> WeightsManifest:
        """Make the current parameters available to the runners under a version."""
        manifest, chunks = self._learner.export()
        # A loop of its own: this method runs on a thread that may not wait on another's.
        asyncio.run(self._store.publish(chunks, manifest))
        return manifest

    def save(self, folder: str) -> None:
        """Write the learner's state; ``folder`` must be reachable from this node."""
        from alphagrpo.learner.state import save_learner

        save_learner(self._learner, folder)

    def load(self, folder: str) -> int:
        """Restore the learner's state; returns the step."""
        from alphagrpo.learner.state import load_learner

        return load_learner(self._learner, folder)

    @ray.method(concurrency_group=CONTROL)
    def probe(self, folder: str, role: str) -> str:
        """Whether this node sees the driver's ``folder``; see :mod:`actors.storage`."""
        return answer_probe(folder, role)

    @ray.method(concurrency_group=CONTROL)
    def status(self) -> dict[str, Any]:
        """Answered while a step is being computed."""
        learner = self._learner
        return {"pid": os.getpid(), "step": learner.step, "version": learner.version}


def start_learner(config: RunConfig) -> Handle:
    """The run's learner, ``alphagrpo:<run>:learner``; its registry must be there.

    Ray does not restart it: a fresh process has the weights of step 0. Whoever runs the steps
    restores it from a checkpoint.
    """
    options = actor_options(
        config,
        "learner",
        cpus=config.learner.cpus,
        gpus=config.learner.gpus,
        selector=config.placement.learner,
    )
    make: Any = ray.remote
    actor = make(concurrency_groups={CONTROL: 2})(LearnerActor)
    return actor.options(**options, max_restarts=0).remote(config)


class RayLearner:
    """:class:`alphagrpo.ports.Learner` over the actor. Raises LearnerDied once it is gone."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle

    async def update(self, batch: TrainingBatch) -> UpdateReport:
        """One GRPO step; the references travel, the groups do not."""
        return await self._ask(self.handle.update.remote(batch))

    async def publish(self) -> WeightsManifest:
        """Publish the current parameters as a new version."""
        return await self._ask(self.handle.publish.remote())

    async def save(self, folder: str) -> None:
        """Write parameters, optimizer and step into ``folder``."""
        await self._ask(self.handle.save.remote(folder))

    async def load(self, folder: str) -> int:
        """Restore what :meth:`save` wrote; returns the step."""
        return await self._ask(self.handle.load.remote(folder))

    async def status(self) -> dict[str, Any]:
        """Process id, step and version."""
        return await self._ask(self.handle.status.remote())

    async def _ask(self, reference: Any) -> Any:
        try:
            return await answer(reference)
        except RayActorError as error:
            raise LearnerDied(
                f"the learner must stay alive through a step, its process died ({error}); "
                "it is restored from the last checkpoint, or resume the run with --resume"
            ) from error
