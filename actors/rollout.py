"""The rollout actor: a runner in a process of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from actors.metrics import RunnerGauges
from actors.parts import Handle, Part, actor_options
from actors.ranks import runner_role
from actors.storage import answer_probe
from actors.weights import connect_weights
from alphagrpo.config import RunConfig
from alphagrpo.ports import Draft, DraftReport, GroupReport, Picture, PictureRequest
from alphagrpo.types import GivenImage, Group, QuestionSet, RolloutJob

if TYPE_CHECKING:
    from alphagrpo.learner.rank import LocalRank
    from alphagrpo.policy.worker import RolloutWorker
    from alphagrpo.ports import WeightStore

MAX_RESTARTS = 20
"""Restarts after a death; one that dies more often has a cause that no restart removes."""


class RolloutActor:
    """Samples groups in one thread while earlier ones are being scored on its event loop."""

    def __init__(self, config: RunConfig, index: int, verifier: Part) -> None:
        # Imported here, so that the driver that describes this actor needs no torch.
        import torch

        from alphagrpo.policy.devices import check_device
        from alphagrpo.policy.loading import load_policy
        from alphagrpo.policy.worker import RolloutWorker
        from alphagrpo.rollout.runner import GroupRunner

        torch.set_num_threads(config.rollout.threads)
        self._name = runner_role(index)
        check_device(config, self._name, "runner")
        policy = load_policy(config)
        worker = RolloutWorker(policy.model, policy.tokenizer, config)
        store, thread = connect_weights(config), ThreadPoolExecutor(1, "worker")
        self._runner = GroupRunner(worker, verifier.make(), store, config, thread, self._name)
        self._rank = self._make_rank(config, worker, store, thread)
        self._kept: dict[str, Group] = {}
        """What was drawn here and is to be learnt here, by its first trajectory."""
        how = config.refinement
        self._trains_drafts = how is not None and how.drafts.trained
        self._gauges = RunnerGauges(config.name, self._name)

    def _make_rank(
        self, config: RunConfig, worker: RolloutWorker, store: WeightStore, thread: Executor
    ) -> LocalRank | None:
        """A rank of the learner over the worker's own model, where the runners learn."""
        from alphagrpo.learner.learner import GRPOLearner
        from alphagrpo.learner.rank import LocalRank

        if not config.learner.on_runners:
            return None
        return LocalRank(
            GRPOLearner(worker.model, config),
            store,
            fetch=self._fetch,
            thread=thread,
            host=ray.util.get_node_ip_address(),
            adopt=worker.adopt,
            role=self._name,
        )

    async def rank(self, method: str, *arguments: Any) -> Any:
        """Call a method of :class:`alphagrpo.learner.rank.LocalRank`, where the runners learn."""
        return await getattr(self._rank, method)(*arguments)

    async def _fetch(self, reference: Any) -> Group:
        """A group that was kept here, or that lies in the object store."""
        found: Group | str = await reference
        return self._kept.pop(found) if isinstance(found, str) else found

    async def roll_out(
        self,
        job: RolloutJob,
        questions: QuestionSet,
        keep_pictures: int,
        draft: Draft | None,
        source: Group | GivenImage | None,
    ) -> tuple[GroupReport, Group | str]:
        """Two returns: the caller owns both, so that a group outlives its runner. One that is
        learnt here stays here, and its name is returned.
        """
        result = await self._runner.roll_out(
            job,
            questions,
            keep_pictures=keep_pictures,
            draft=None if draft is None else replace(draft, source=source),
        )
        report = result.report(questions, self._name, None)
        self._gauges.observe(result, self._runner.version)
        if self._rank is None or not result.group.trajectories or self._is_draft(job):
            return report, result.group
        # What a step that was abandoned has left can no longer be learnt.
        version, name = job.policy_version, result.group.trajectories[0].id
        kept = {k: g for k, g in self._kept.items() if g.job.policy_version == version}
        self._kept = {**kept, name: result.group}
        return report, name

    def _is_draft(self, job: RolloutJob) -> bool:
        """Whether other runners may need the group's pictures, to refine one of them."""
        return job.slice is not None and job.task == "rt2i" and self._trains_drafts

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
            "recomputed": self._rank.learner.recomputed if self._rank else 0,
        }


def start_runner(config: RunConfig, index: int, verifier: Part) -> Handle:
    """Runner ``alphagrpo:<run>:rollout-<index>``.

    Its registry must be there. Calls are not retried by Ray: the pool gives a lost job to whoever
    is free, with the same seeds.
    """
    rollout = config.rollout
    options = actor_options(
        config,
        runner_role(index),
        cpus=rollout.cpus_per_runner,
        gpus=rollout.gpus_per_runner,
        selector=config.placement.rollout,
    )
    actor: Any = ray.remote(RolloutActor)
    # A rank that is lost takes the others' step with it: they are started again together.
    restarts = 0 if config.learner.on_runners else MAX_RESTARTS
    return actor.options(
        **options, max_restarts=restarts, max_task_retries=0, max_concurrency=100
    ).remote(config, index, verifier)
