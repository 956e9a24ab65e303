"""The rollout actor: a runner in a process of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray

from actors.metrics import RunnerGauges
from actors.parts import Handle, Part, actor_options
from actors.storage import answer_probe
from actors.weights import connect_weights
from alphagrpo.config import RunConfig
from alphagrpo.ports import Draft, DraftReport, GroupReport, Picture, PictureRequest
from alphagrpo.types import GivenImage, Group, QuestionSet, RolloutJob

MAX_RESTARTS = 20
"""Restarts after a death; one that dies more often has a cause that no restart removes."""


class RolloutActor:
    """Samples groups in one thread while earlier ones are being scored on its event loop."""

    def __init__(self, config: RunConfig, index: int, verifier: Part) -> None:
        # Imported here, so that the driver that describes this actor needs no torch.
        import torch

        from alphagrpo.policy.loading import load_policy
        from alphagrpo.policy.worker import RolloutWorker
        from alphagrpo.rollout.runner import GroupRunner

        torch.set_num_threads(config.rollout.threads)
        policy = load_policy(config)
        worker = RolloutWorker(policy.model, policy.tokenizer, config)
        self._name = f"rollout-{index}"
        self._runner = GroupRunner(worker, verifier.make(), connect_weights(config), config)
        self._gauges = RunnerGauges(config.name, self._name)

    async def roll_out(
        self,
        job: RolloutJob,
        questions: QuestionSet,
        keep_pictures: int,
        draft: Draft | None,
        source: Group | GivenImage | None,
    ) -> tuple[GroupReport, Group]:
        """Two returns: the caller owns both, so that a group outlives its runner."""
        result = await self._runner.roll_out(
            job,
            questions,
            keep_pictures=keep_pictures,
            draft=None if draft is None else replace(draft, source=source),
        )
        report = result.report(questions, self._name, None)
        self._gauges.observe(result, self._runner.version)
        return report, result.group

    async def draw_drafts(
        self, job: RolloutJob, questions: QuestionSet, keep_pictures: int
    ) -> tuple[DraftReport, GivenImage | None]:
        """Two returns, likewise: what is said of the drafts, and the one that is refined."""
        report, picture = await self._runner.draw_drafts(
            job, questions, keep_pictures=keep_pictures
        )
        return replace(report, runner=self._name), picture

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        """Pictures for evaluation."""
        return await self._runner.draw(requests, version)

    async def probe(self, folder: str, role: str) -> str:
        """Whether this node sees the driver's ``folder``; see :mod:`actors.storage`."""
        return await asyncio.to_thread(answer_probe, folder, role)

    async def status(self) -> dict[str, Any]:
        """What the runner is at, for ``ping`` and for people."""
        return {
            "name": self._name,
            "pid": os.getpid(),
            "version": self._runner.version,
            "groups_done": self._runner.groups_done,
        }


def start_runner(config: RunConfig, index: int, verifier: Part) -> Handle:
    """Runner ``alphagrpo:<run>:rollout-<index>``.

    Its registry must be there. Calls are not retried by Ray: the pool gives a lost job to whoever
    is free, with the same seeds.
    """
    rollout = config.rollout
    options = actor_options(
        config,
        f"rollout-{index}",
        cpus=rollout.cpus_per_runner,
        gpus=rollout.gpus_per_runner,
        selector=config.placement.rollout,
    )
    actor: Any = ray.remote(RolloutActor)
    return actor.options(
        **options, max_restarts=MAX_RESTARTS, max_task_retries=0, max_concurrency=100
    ).remote(config, index, verifier)
