"""AlphaGRPO training, end to end.

::

    prompts ──▶ turns ─▶ pool.roll_out ──▶ GroupReport ──▶ learner.accumulate ─▶ learner.finish
                 │      (think, draw, verify)  by reference (gradients of a block)  (GRPO step)
                 │             ▲                                                     │
                 └ questions   └────── version v + 1 ◀── learner.publish ◀───────────┘

A step samples ``prompts_per_step`` groups with one version of the weights, ``pool.size`` of them in
flight, so that one is verified while the next is sampled. The learner replays each group as soon as
its block's rewards are there, while others are still sampled; then it takes one optimizer step and
publishes. A group is reasoning text-to-image, or refinements of one of its prompt's drafts, which
the pool draws and scores first. At zero lag a run's trajectories are a function of its config
alone. The loop sees references and small reports only; Ray, in-process and fake parts look the
same to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from alphagrpo.config import RunConfig
from alphagrpo.errors import PolicyDataError
from alphagrpo.ports import Decomposer, GroupReport, Learner, RolloutPool, SlicePool
from alphagrpo.prompt_iterator import PromptIterator
from alphagrpo.retries import Retries, Sleep
from alphagrpo.rewards.programs import configured_program
from alphagrpo.rollout.slicing import SlicedPool
from alphagrpo.step.dealing import Dealer
from alphagrpo.step.drawing import Draw, StepDrawing
from alphagrpo.step.feed import StepFeed
from alphagrpo.step.metrics import invalid_reasons
from alphagrpo.step.report import LearntStep, StepReport, failed_report
from alphagrpo.step.times import StepClock
from alphagrpo.tasks import task_of
from alphagrpo.turns import Cursor, SkippedTurn, Visit
from alphagrpo.types import Prompt, QuestionSet, RolloutJob, WeightsManifest

log = logging.getLogger(__name__)

REPORT_GROUPS = 4
"""Groups whose pictures are kept at a step that the report shows."""


class TrainingLoop:
    """Runs AlphaGRPO over ports. All calls must come from one event loop."""

    def __init__(
        self,
        config: RunConfig,
        prompts: Sequence[Prompt],
        *,
        decomposer: Decomposer,
        pool: SlicePool,
        learner: Learner,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.config, self.learner = config, learner
        self.pool: RolloutPool = SlicedPool(pool, config) if config.rollout.slices > 1 else pool
        self.step, self.cursor = 0, Cursor()
        self.failed: StepReport | None = None
        """What is known of the step that failed last; None since one succeeded."""
        self._retries = Retries(config.rollout.max_retries, config.rollout.pause, sleep)
        self.prompts = PromptIterator(
            prompts,
            config.seed,
            decomposer,
            lookahead=config.rollout.prompts_per_step,
            accept=configured_program(config.reward).questions,
            retries=self._retries,
        )
        self.manifest: WeightsManifest | None = None
        self._room = asyncio.Semaphore(self.pool.size)
        self._ahead: deque[StepDrawing] = deque()
        self._newest = self._attempt = -1
        self._dropped: dict[int, tuple[int, ...]] = {}
        """Positions of turns whose groups were dropped, by step, until a drawing takes them up."""
        self._learnt: LearntStep | None = None

    async def run_step(self) -> StepReport:
        """Sample, score, learn, publish. A step that raises before the optimizer leaves no trace
        but :attr:`failed`: groups of later steps that were under way are drawn again too. One whose
        publication raises is published and reported by the next call.
        """
        if self._learnt is None:
            self._learnt = await self._learn()
        learnt, manifest = self._learnt, await self.ensure_published()
        learnt.clock.ended = perf_counter()
        self._learnt = None
        return self._report(learnt, manifest.version)

    async def _learn(self) -> LearntStep:
        """A step up to its optimizer step, after which its turns have come."""
        clock = StepClock()
        manifest = await self.ensure_published()
        clock.published = perf_counter()
        drawing = self._ahead.popleft() if self._ahead else self._drawing(self.step, self.cursor)
        self._draw_ahead(drawing)
        self._attempt += 1
        feed = StepFeed(self.config, self.learner, self._attempt)
        try:
            await self.learner.begin(self._attempt)
            groups = await self._feed(drawing, feed)
            self._refuse_unscored(groups)
            cursor = await drawing.end()
            update = await feed.finish()
        except BaseException:
            self.failed = failed_report(self.step + 1, manifest.version, drawing)
            await asyncio.gather(feed.abandon(), drawing.close(), self._forget_ahead())
            raise
        clock.learned = perf_counter()
        self._advance(drawing, groups, cursor)
        training = tuple(feed.blocks.weights.get(index) for index in range(len(groups)))
        return LearntStep(
            drawing=drawing, groups=groups, training=training, update=update, clock=clock
        )

    def _advance(self, drawing: StepDrawing, groups: Sequence[GroupReport], cursor: Cursor) -> None:
        """The step's turns have come; those that gave no usable group for the first time will come
        again.
        """
        taken = self.step - 1 - self.config.rollout.max_lag
        self._dropped = {step: turns for step, turns in self._dropped.items() if step > taken}
        turns = self._unusable(drawing.turns, groups)
        if again := tuple(turn.position for turn in turns if not turn.again):
            self._dropped[self.step] = again
        self.step, self.cursor, self.manifest, self.failed = self.step + 1, cursor, None, None

    def _report(self, learnt: LearntStep, version: int) -> StepReport:
        dropped = self._unusable(learnt.drawing.turns, learnt.groups)
        aside = {"prompts/set_aside": float(len(self.prompts.set_aside))}
        metrics = learnt.metrics(dropped, self.config) | aside
        return learnt.report(self.step, version, metrics)

    def _unusable(self, turns: Sequence[Visit], groups: Sequence[GroupReport]) -> list[Visit]:
        """Turns whose groups, in the same order, are dropped."""
        pairs = zip(turns, groups, strict=True)
        return [turn for turn, group in pairs if not self._is_usable(group)]

    async def ensure_published(self) -> WeightsManifest:
        """The version to sample with: published now if the last step did not get that far."""
        if self.manifest is None:
            self.manifest = await self.learner.publish()
        self._newest = self.manifest.version
        return self.manifest

    def _draw_ahead(self, drawing: StepDrawing) -> None:
        """With lag, keep ``max_lag`` further steps under way, side by side where there is room.

        Each is sampled by the newest version there is when its turn comes, so that the last of them
        is at most ``max_lag`` versions old when it is learnt from.
        """
        while len(self._ahead) < self.config.rollout.max_lag:
            earlier = self._ahead[-1] if self._ahead else drawing
            self._ahead.append(self._drawing(self.step + 1 + len(self._ahead), earlier))

    def _drawing(self, step: int, start: Cursor | StepDrawing) -> StepDrawing:
        """All groups of a step, in prompt order, from now on.

        Turns whose groups a step dropped are put off in the first drawing that begins after it, so
        that the order does not depend on who was quick.
        """
        count, newest = self.config.rollout.prompts_per_step, step - 1 - self.config.rollout.max_lag
        oldest = newest if isinstance(start, StepDrawing) else 0
        steps = [earlier for earlier in self._dropped if oldest <= earlier <= newest]
        dropped = [position for earlier in steps for position in self._dropped[earlier]]

        def turns(cursor: Cursor, note: Callable[[SkippedTurn], object]) -> AsyncIterator[Visit]:
            return self.prompts.stream(cursor.putting_off(dropped), count, note)

        return StepDrawing(turns, start, count, partial(self._draw, step), self._room)

    def _draw(self, step: int) -> Draw:
        """How a step's groups are drawn that are dispatched from now on."""
        version, dealer = self._newest, Dealer(self.config)
        pictured = REPORT_GROUPS if step % self.config.training.report_groups_every == 0 else 0
        kept = self.config.training.kept_pictures(self.config.rollout.group_size)

        def draw(place: int, turn: Visit) -> Awaitable[GroupReport]:
            task = task_of(self.config, turn.prompt.id, turn.visit)
            job = RolloutJob(
                run=self.config.name,
                prompt=turn.prompt,
                visit=turn.visit,
                group_size=self.config.rollout.group_size,
                policy_version=version,
                seed=self.config.seed,
                task=task,
                ranks=dealer.deal(task),
            )
            keep = job.group_size if place < pictured else kept
            return self._roll_out(job, turn.questions, keep)

        return draw

    async def _feed(self, drawing: StepDrawing, feed: StepFeed) -> list[GroupReport]:
        """Hand groups to the learner as they arrive; all of them, in prompt order."""
        async for arrival in drawing.arrivals():
            feed.add(arrival.place, arrival.report if self._is_usable(arrival.report) else None)
        return [arrival.report for arrival in drawing.in_order()]

    async def _roll_out(
        self, job: RolloutJob, questions: QuestionSet, keep_pictures: int
    ) -> GroupReport:
        """One group, asked for again while too few of its samples have a score.

        The samples are the same each time; what is tried again, after a pause, is their
        verification.
        """
        for attempt in range(self.config.rollout.max_retries + 1):
            if attempt:
                await self._retries.wait(attempt)
            report = await self.pool.roll_out(job, questions, keep_pictures=keep_pictures)
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

    def _refuse_unscored(self, groups: Sequence[GroupReport]) -> None:
        """Stop a run that would train on what happens to be left."""
        num_usable = sum(self._is_usable(group) for group in groups)
        num_samples = sum(len(group.samples) for group in groups)
        invalid_share = (num_samples - sum(group.num_valid for group in groups)) / num_samples
        limit = self.config.reward.max_invalid_share
        if invalid_share > limit or not num_usable:
            raise PolicyDataError(
                f"at most {limit:.0%} of a step's samples may be without a score, step "
                f"{self.step + 1} has {invalid_share:.0%} and {num_usable} usable groups "
                f"({'; '.join(invalid_reasons(groups)) or 'no reason given'}); "
                "fix the verifier and resume, or raise reward.max_invalid_share"
            )

    async def _forget_ahead(self) -> None:
        await asyncio.gather(*(drawing.close() for drawing in self._ahead))
        self._ahead.clear()

    async def close(self) -> None:
        """Abandon what is under way."""
        await self._forget_ahead()
        self.prompts.close()

    def state_dict(self) -> dict[str, Any]:
        """JSON state: step, place in the prompt order, turns that come again, prompts set aside."""
        return {
            "step": self.step,
            "position": self.cursor.position,
            "put_off": list(self.cursor.put_off),
            "dropped": [[step, list(turns)] for step, turns in self._dropped.items()],
            "feed": self.prompts.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken; the learner is restored apart.

        States of versions that put no turn off have none.
        """
        self.prompts.load_state_dict(state["feed"])
        self.step = int(state["step"])
        self.cursor = Cursor(int(state["position"]), tuple(state.get("put_off", ())))
        self._dropped = {step: tuple(turns) for step, turns in state.get("dropped", ())}
        self.manifest = self.failed = self._learnt = None
