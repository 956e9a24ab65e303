"""What sleeps: a runner and a rank, with the methods and the queues of the real ones.

A runner draws one group at a time and waits for the verdicts of earlier ones meanwhile; a rank
replays one group at a time, once it has fetched it. What they say is as large as the real thing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.ranks import fetched, runner_role
from alphagrpo import seeds
from alphagrpo.config import RunConfig
from alphagrpo.learner.notes import GroupNotes
from alphagrpo.learner.steps import LearnerState, StepEnd, StepTaken
from alphagrpo.ports import GroupReport, Sample, Timings
from alphagrpo.training import CallOrder, TrainingGroup
from alphagrpo.types import (
    Prompt,
    Question,
    QuestionSet,
    RolloutJob,
    Score,
    Verdict,
    WeightsManifest,
)
from benchmarks.mesh.stages import Stages

GROUP_BYTES = 100_000
"""What a drawn group weighs in the object store: little, since no stage here depends on it."""
THOUGHT = "a red circle on the left of a blue square, both on a plain black background; " * 8
FIGURES = ("loss", "clip_share", "mean_ratio", "kl")


class Decomposer:
    """The same questions for every prompt, at once."""

    def __init__(self, number: int) -> None:
        self._number = number

    async def decompose(self, prompt: Prompt) -> QuestionSet:
        """See :class:`alphagrpo.ports.Decomposer`."""
        questions = tuple(
            Question(
                id=f"s{index}",
                text=f"is there a red circle on the left of square {index} ?",
                kind="quality" if index % 5 == 4 else "semantic",
                tag="Existence",
            )
            for index in range(self._number)
        )
        return QuestionSet(prompt=prompt.text, questions=questions, revision="asleep@1")


@dataclass(frozen=True, slots=True)
class Drawn:
    """The large half of a group."""

    job: RolloutJob
    rewards: tuple[float, ...]
    payload: NDArray[np.uint8]


Fetch = Callable[[Any], Awaitable[Any]]
"""Gets what is behind a reference."""


class SleepingRank:
    """:class:`alphagrpo.learner.ranked.Rank` as far as a step goes."""

    def __init__(self, device: asyncio.Lock, fetch: Fetch) -> None:
        self._device, self._fetch = device, fetch
        self._step, self._version = 0, -1
        self.stages = Stages(draw_s=0.0, learn_s=0.0, verify_s=0.0)

    async def alive(self) -> None:
        """At once."""

    async def begin(self, attempt: int) -> LearnerState:
        """Where the learner is."""
        return LearnerState(step=self._step, version=self._version)

    async def accumulate(
        self, groups: Sequence[TrainingGroup], order: CallOrder
    ) -> Sequence[GroupNotes]:
        """Fetch and replay one group after the other."""
        notes = []
        for group in groups:
            drawn = await self._fetch(group.reference)
            async with self._device:
                await asyncio.sleep(self.stages.learning(drawn.job))
            notes.append(self._notes(group, drawn))
        return notes

    async def finish(self, end: StepEnd) -> StepTaken:
        """Sums and optimizer take no time here."""
        self._step += 1
        figures = {"learner/grad_norm": 1.0, "learner/lr": 1e-4}
        return StepTaken(step=self._step, seconds=0.0, figures=figures)

    async def publish(self) -> WeightsManifest:
        """A version without weights."""
        self._version += 1
        return WeightsManifest(
            version=self._version, checksum="", names=(), shapes=(), dtypes=(), offsets=(), nbytes=0
        )

    async def follow(self, manifest: WeightsManifest, check: bool) -> None:
        """The same version here."""
        self._version = manifest.version

    def _notes(self, group: TrainingGroup, drawn: Drawn) -> GroupNotes:
        names = [f"{part}/{figure}" for part in ("text", "image") for figure in FIGURES]
        return GroupNotes(
            place=group.place,
            turns=((drawn.job.prompt.id, drawn.job.visit),),
            policy_version=drawn.job.policy_version,
            rewards=drawn.rewards,
            advantages=group.samples.advantages,
            sums=dict.fromkeys(names, 0.5),
            samples={"text": float(len(drawn.rewards)), "image": float(len(drawn.rewards))},
            entropy=1.0,
            tokens=100 * len(drawn.rewards),
            seconds=self.stages.learning(drawn.job),
        )


class SleepingRunner:
    """A rollout actor and, with ``learner.placement: runners``, a rank on the same device."""

    def __init__(self, index: int, fetch: Fetch = fetched) -> None:
        self._name, self._fetch = runner_role(index), fetch
        self._device, self._drawing = asyncio.Lock(), asyncio.Lock()
        self.own_rank = SleepingRank(self._device, self._find)
        self._keeps = False
        self._kept: dict[str, Drawn] = {}

    async def prepare(self, config: RunConfig, stages: Stages) -> None:
        """Sleep by these stages from now on."""
        self.own_rank.stages, self._keeps = stages, config.learner.on_runners

    async def roll_out(
        self, job: RolloutJob, questions: QuestionSet, keep_pictures: int, *draft: Any
    ) -> tuple[GroupReport, Drawn | str]:
        """Draw, then wait for the verdicts while the next job is drawn."""
        stages = self.own_rank.stages
        async with self._drawing, self._device:
            await asyncio.sleep(stages.drawing(job))
        await asyncio.sleep(stages.verifying(job))
        rewards = tuple(_reward(job, index) for index in job.samples)
        timings = Timings(
            sample_s=stages.drawing(job),
            verify_s=stages.verifying(job),
            tail_s=stages.verifying(job),
        )
        samples = (
            _sample(job, questions, index, reward)
            for index, reward in zip(job.samples, rewards, strict=True)
        )
        report = GroupReport(
            job=job,
            questions=questions,
            samples=tuple(samples),
            reference=None,
            runner=self._name,
            timings=timings,
        )
        drawn = Drawn(job, rewards, np.zeros(GROUP_BYTES, np.uint8))
        if not self._keeps:
            return report, drawn
        name = report.samples[0].id
        self._kept[name] = drawn
        return report, name

    async def _find(self, reference: Any) -> Drawn:
        """What was kept here, or lies in the object store."""
        found = await self._fetch(reference)
        return self._kept.pop(found) if isinstance(found, str) else found

    async def nothing(self) -> tuple[None, None]:
        """A call with nothing in it, with as many returns as a group has."""
        return None, None

    async def rank(self, method: str, *arguments: Any) -> Any:
        """Call a method of the rank."""
        return await getattr(self.own_rank, method)(*arguments)

    async def status(self) -> dict[str, Any]:
        """Who this is, and what it has computed so far."""
        return {"name": self._name, "pid": os.getpid(), "cpu_s": process_time()}


def _reward(job: RolloutJob, index: int) -> float:
    return seeds.sample_seed(job.seed, job.prompt.id, job.visit, index) / 2**seeds.SEED_BITS


def _sample(job: RolloutJob, questions: QuestionSet, index: int, reward: float) -> Sample:
    # Ids and numbers of their own, as those that came from a service.
    verdicts = (
        Verdict(question_id=f"s{place}", p_yes=reward / (1.0 + place), judge="asleep@1")
        for place in range(len(questions.questions))
    )
    score = Score(
        semantic=reward,
        quality=reward,
        value=reward,
        verdicts=tuple(verdicts),
        aggregate="geometric",
        questions=questions.questions,
        revision=questions.revision,
    )
    return Sample(
        id=f"{job.run}/{job.prompt.id}/{job.visit}/{index}",
        thought=THOUGHT,
        score=score,
        reward=reward,
        picture_hash="0" * 64,
    )
