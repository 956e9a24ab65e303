"""AlphaGRPO training, end to end.

::

    prompts ──▶ turns ─▶ pool.roll_out ──▶ GroupReport ──▶ learner.update ──▶ learner.publish
                 │      (think, draw, verify)  by reference   (GRPO step)            │
                 │             ▲                                                     │
                 └ questions   └────────────────── version v + 1 ◀───────────────────┘

A step samples ``prompts_per_step`` groups with one version of the weights, ``pool.size`` of them in
flight, so that one is verified while the next is sampled; it then takes one optimizer step and
publishes. A group is reasoning text-to-image, or refinements of one of its prompt's drafts, which
the pool draws and scores first. At zero lag a run's trajectories are a function of its config
alone. The loop sees references and small reports only; Ray, in-process and fake parts look the
same to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from alphagrpo.config import RunConfig
from alphagrpo.errors import PolicyDataError
from alphagrpo.ports import Decomposer, GroupReport, Learner, RolloutPool, TrainingGroup
from alphagrpo.prompt_iterator import PromptIterator, Visit
from alphagrpo.rewards.programs import configured_program
from alphagrpo.step_metrics import invalid_reasons, step_metrics
from alphagrpo.tasks import task_of
from alphagrpo.training_batch import training_batch
from alphagrpo.types import Prompt, RolloutJob, WeightsManifest

log = logging.getLogger(__name__)

REPORT_GROUPS = 4
"""Groups whose pictures are kept at a step that the report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step did: every group it sampled, and its figures."""

    step: int
    """Steps of the loop so far, this one included."""
    version: int
    """The weights published at its end."""
    groups: tuple[GroupReport, ...]
    """In prompt order; dropped ones included."""
    training: tuple[TrainingGroup | None, ...]
    """What the learner was given of each group, without its reference; None of dropped ones."""
    metrics: Mapping[str, float]
    """``area/name`` to value."""


@dataclass(frozen=True, slots=True)
class _Batch:
    groups: tuple[GroupReport, ...]
    next_position: int
    wall_s: float


class TrainingLoop:
    """Runs AlphaGRPO over ports. All calls must come from one event loop."""

    def __init__(
        self,
        config: RunConfig,
        prompts: Sequence[Prompt],
        *,
        decomposer: Decomposer,
        pool: RolloutPool,
        learner: Learner,
    ) -> None:
        self.config, self.pool, self.learner = config, pool, learner
        self.step, self.position = 0, 0
        self.prompts = PromptIterator(
            prompts,
            config.seed,
            decomposer,
            lookahead=config.rollout.prompts_per_step,
            accept=configured_program(config.reward).questions,
        )
        self.manifest: WeightsManifest | None = None
        self._ahead: deque[asyncio.Task[_Batch]] = deque()
        self._newest = -1

    async def run_step(self) -> StepReport:
        """Sample, score, learn, publish. A step that raises before learning leaves no trace."""
        started = perf_counter()
        manifest = await self.ensure_published()
        first_sync_s = perf_counter() - started
        batch = await self._take_batch(manifest.version)
        usable = [group for group in batch.groups if self._is_usable(group)]
        self._refuse_unscored(batch.groups, usable)
        self._collect_ahead(batch.next_position)
        learning = perf_counter()
        training = training_batch(usable, self.config)
        update = await self.learner.update(training)
        learned = perf_counter()
        self.step, self.position, self.manifest = self.step + 1, batch.next_position, None
        manifest = await self.ensure_published()
        metrics = step_metrics(
            batch.groups,
            usable,
            collect_s=batch.wall_s,
            learn_s=learned - learning,
            sync_s=first_sync_s + perf_counter() - learned,
        )
        metrics |= {"prompts/set_aside": float(len(self.prompts.set_aside)), **update.metrics}
        # The bytes behind the references have been trained on and may go.
        trained = iter(training.groups)
        return StepReport(
            step=self.step,
            version=manifest.version,
            groups=tuple(replace(group, reference=None) for group in batch.groups),
            training=tuple(
                replace(next(trained), reference=None) if self._is_usable(group) else None
                for group in batch.groups
            ),
            metrics=metrics,
        )

    async def ensure_published(self) -> WeightsManifest:
        """The version to sample with: published now if the last step did not get that far."""
        if self.manifest is None:
            self.manifest = await self.learner.publish()
        self._newest = self.manifest.version
        return self.manifest

    async def _take_batch(self, version: int) -> _Batch:
        """The groups of this step: sampled now, or (with lag) already under way."""
        if self._ahead:
            return await self._ahead.popleft()
        return await self._collect(self.step, self.position, version)

    def _collect_ahead(self, position: int) -> None:
        """With lag, keep ``max_lag`` further steps under way, one after another.

        Each is sampled by the newest version there is when its turn comes, so that the last of them
        is at most ``max_lag`` versions old when it is learnt from.
        """
        while len(self._ahead) < self.config.rollout.max_lag:
            step = self.step + 1 + len(self._ahead)
            if self._ahead:
                batch = self._collect_after(self._ahead[-1], step)
            else:
                batch = self._collect(step, position, self._newest)
            self._ahead.append(asyncio.create_task(batch))

    async def _collect_after(self, earlier: asyncio.Task[_Batch], step: int) -> _Batch:
        position = (await asyncio.shield(earlier)).next_position
        return await self._collect(step, position, self._newest)

    async def _collect(self, step: int, position: int, version: int) -> _Batch:
        """All groups of a step, dispatched in prompt order as soon as there is room for them."""
        started = perf_counter()
        room = asyncio.Semaphore(self.pool.size)
        count = self.config.rollout.prompts_per_step
        pictured = REPORT_GROUPS if step % self.config.training.report_groups_every == 0 else 0
        tasks: list[asyncio.Task[GroupReport]] = []
        try:
            async for visit in self.prompts.stream(position, count):
                await room.acquire()
                _raise_first_failure(tasks)
                keep = self.config.rollout.group_size if len(tasks) < pictured else 0
                task = asyncio.create_task(self._roll_out(visit, version, keep))
                task.add_done_callback(lambda _: room.release())
                tasks.append(task)
                position = visit.next_position
            groups = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return _Batch(tuple(groups), position, perf_counter() - started)

    async def _roll_out(self, visit: Visit, version: int, keep_pictures: int) -> GroupReport:
        """One group, asked for again while too few of its samples have a score.

        The samples are the same each time; what is tried again is their verification.
        """
        job = RolloutJob(
            run=self.config.name,
            prompt=visit.prompt,
            visit=visit.visit,
            group_size=self.config.rollout.group_size,
            policy_version=version,
            seed=self.config.seed,
            task=task_of(self.config, visit.prompt.id, visit.visit),
        )
        for attempt in range(self.config.rollout.max_retries + 1):
            report = await self.pool.roll_out(job, visit.questions, keep_pictures=keep_pictures)
            if self._is_usable(report):
                break
            log.warning(
                "group %s/%d: %d of %d samples scored, %d needed (attempt %d): %s",
                job.prompt.id, job.visit, report.num_valid, job.group_size, self.config.min_valid,
                attempt + 1, "; ".join(invalid_reasons([report])),
            )  # fmt: skip
        return report

    def _is_usable(self, report: GroupReport) -> bool:
        """Whether enough of its samples have a reward for the group to be trained on."""
        return report.num_valid >= self.config.min_valid

    def _refuse_unscored(
        self, groups: Sequence[GroupReport], usable: Sequence[GroupReport]
    ) -> None:
        """Stop a run that would train on what happens to be left."""
        num_samples = sum(len(group.samples) for group in groups)
        invalid_share = (num_samples - sum(group.num_valid for group in groups)) / num_samples
        limit = self.config.reward.max_invalid_share
        if invalid_share > limit or not usable:
            raise PolicyDataError(
                f"at most {limit:.0%} of a step's samples may be without a score, step "
                f"{self.step + 1} has {invalid_share:.0%} and {len(usable)} usable groups "
                f"({'; '.join(invalid_reasons(groups)) or 'no reason given'}); "
                "fix the verifier and resume, or raise reward.max_invalid_share"
            )

    async def close(self) -> None:
        """Abandon what is under way."""
        for task in self._ahead:
            task.cancel()
        await asyncio.gather(*self._ahead, return_exceptions=True)
        self._ahead.clear()
        self.prompts.close()

    def state_dict(self) -> dict[str, Any]:
        """JSON state: step, place in the prompt order, prompts set aside."""
        return {"step": self.step, "position": self.position, "feed": self.prompts.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken; the learner is restored apart."""
        self.prompts.load_state_dict(state["feed"])
        self.step, self.position = int(state["step"]), int(state["position"])
        self.manifest = None


def _raise_first_failure(tasks: Sequence[asyncio.Task[GroupReport]]) -> None:
    for task in tasks:
        if task.done():
            task.result()
