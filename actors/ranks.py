"""Ranks of the learner in other actors of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError

from actors.parts import Handle, actor_name, answer, said_at_start
from alphagrpo.deadlines import Deadlines
from alphagrpo.errors import LearnerLost
from alphagrpo.learner.ranked import RankedLearner
from alphagrpo.types import Group

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.learner.notes import GroupNotes
    from alphagrpo.learner.steps import LearnerState, Part, StepEnd, StepTaken
    from alphagrpo.training import CallOrder, TrainingGroup
    from alphagrpo.types import WeightsManifest


def rank_role(rank: int) -> str:
    """The role of a rank on a device of its own; rank 0 is the central learner."""
    return f"learner-{rank}" if rank else "learner"


def runner_role(index: int) -> str:
    """The role of a rollout runner."""
    return f"rollout-{index}"


def rank_lost(role: str, error: Exception) -> LearnerLost:
    """What is raised where the process of a rank is gone."""
    return LearnerLost(
        f"every rank of the learner must stay alive through a step, {role} is gone ({error}); the "
        "ranks are started again from the last checkpoint"
    )


async def fetched(reference: Any) -> Group:
    """The group behind an object-store reference."""
    group: Group = await reference
    return group


class RayRank:
    """:class:`alphagrpo.learner.ranked.Rank` over an actor that has a method ``rank``.

    The actor is looked for when it is first called, and again after a loss. Raises LearnerLost once
    it is gone.
    """

    def __init__(self, config: RunConfig, role: str) -> None:
        self._name, self._role = actor_name(config.name, role), role
        self._handle: Handle | None = None

    async def alive(self) -> None:
        """Return at once, also while a call is computed."""
        await self.status()

    async def open(self) -> tuple[str, int]:
        """Serve what ranks find one another by."""
        host, port = await self._ask("open")
        return host, port

    async def join(self, host: str, port: int, rank: int) -> None:
        """Be rank ``rank`` from now on."""
        await self._ask("join", host, port, rank)

    async def fingerprint(self) -> str:
        """Checksum of all parameters and buffers."""
        return str(await self._ask("fingerprint"))

    async def begin(self, attempt: int) -> LearnerState:
        """Forget what was summed for a step that was not taken."""
        state: LearnerState = await self._ask("begin", attempt)
        return state

    async def accumulate(
        self, groups: Sequence[TrainingGroup], order: CallOrder
    ) -> Sequence[GroupNotes]:
        """Replay the groups; their references travel, the groups do not."""
        notes: Sequence[GroupNotes] = await self._ask("accumulate", groups, order)
        return notes

    async def prepare(self, group: TrainingGroup, counts: bool) -> None:
        """Fetch a group for a round, and raise what is wrong with it where it counts."""
        await self._ask("prepare", group, counts)

    async def keep_step(self, part: Part, number: int, counts: bool) -> GroupNotes:
        """Replay a part of the group that was prepared, together with all other ranks."""
        notes: GroupNotes = await self._ask("keep_step", part, number, counts)
        return notes

    async def finish(self, end: StepEnd) -> StepTaken:
        """The optimizer step."""
        taken: StepTaken = await self._ask("finish", end)
        return taken

    async def publish(self) -> WeightsManifest:
        """Publish the current parameters as a new version."""
        manifest: WeightsManifest = await self._ask("publish")
        return manifest

    async def follow(self, manifest: WeightsManifest, check: bool) -> None:
        """Have the published version too."""
        await self._ask("follow", manifest, check)

    async def save(self, folder: str) -> None:
        """Write the learner's state into ``folder``."""
        await self._ask("save", folder)

    async def load(self, folder: str) -> int:
        """Restore it; returns the step."""
        return int(await self._ask("load", folder))

    async def status(self) -> dict[str, Any]:
        """What the actor says of itself, while it computes too."""
        status: dict[str, Any] = await self._call("status")
        return status

    def forget(self) -> None:
        """Look for the actor again: another process has its name."""
        self._handle = None

    async def _ask(self, method: str, *arguments: Any) -> Any:
        return await self._call("rank", method, *arguments)

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            if self._handle is None:
                self._handle = ray.get_actor(self._name)
        except ValueError as error:
            raise rank_lost(self._role, error) from error
        try:
            return await answer(getattr(self._handle, method).remote(*arguments))
        except RayActorError as error:
            self.forget()
            raise said_at_start(error) or rank_lost(self._role, error) from error


class RunnersLearner(RankedLearner):
    """:class:`alphagrpo.ports.Learner` over a run's rollout runners, each of which is a rank."""

    def __init__(self, config: RunConfig, deadlines: Deadlines | None = None) -> None:
        roles = [runner_role(index) for index in range(config.rollout.num_runners)]
        self._named = [RayRank(config, role) for role in roles]
        super().__init__(self._named, config, deadlines)

    @property
    def handles(self) -> list[Handle]:
        """Of processes that are the learner's alone: none."""
        return []

    async def status(self) -> list[dict[str, Any]]:
        """What each runner says of itself; raises LearnerLost where one is gone."""
        return list(await asyncio.gather(*(rank.status() for rank in self._named)))

    def kill(self) -> None:
        """The pool ends the runners."""

    def forget(self) -> None:
        """The pool has started others."""
        for rank in self._named:
            rank.forget()
