"""The learner that a training loop talks to: one rank, or several behind one front.

The front hands each rank its own groups, ends a step when all have replayed theirs, publishes and
saves through rank 0, and proves that all hold the same parameters. It knows nothing of Ray: ranks
are here, in a thread, or behind actor handles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from alphagrpo.config import RunConfig
from alphagrpo.deadlines import Deadlines, Whom
from alphagrpo.errors import EnvironmentProblem, LearnerLost, ProcessSilent
from alphagrpo.learner.notes import GroupNotes
from alphagrpo.learner.steps import (
    LearnerState,
    Part,
    StepEnd,
    StepTaken,
    step_end,
    update_report,
)
from alphagrpo.training import (
    CallOrder,
    Settling,
    TrainingBlock,
    TrainingGroup,
    UpdateReport,
)
from alphagrpo.types import WeightsManifest

T = TypeVar("T")

CALLS = 2
"""Calls of a rank at a time: it fetches the next group while it replays one."""


class Rank(Protocol):
    """One process that learns. Its calls are answered in the order they were made."""

    async def alive(self) -> None:
        """Return at once, also while a call is computed."""
        ...

    async def open(self) -> tuple[str, int]:
        """Serve, as rank 0, what ranks find one another by: host and port."""
        ...

    async def join(self, host: str, port: int, rank: int) -> None:
        """Be rank ``rank`` from now on; returns once all ranks have joined."""
        ...

    async def fingerprint(self) -> str:
        """Checksum of all parameters and buffers, frozen ones included."""
        ...

    async def begin(self, attempt: int) -> LearnerState:
        """See :meth:`alphagrpo.learner.learner.GRPOLearner.begin`."""
        ...

    async def accumulate(
        self, groups: Sequence[TrainingGroup], order: CallOrder
    ) -> Sequence[GroupNotes]:
        """Replay the groups behind the references; ``order`` is among this rank's calls."""
        ...

    async def prepare(self, group: TrainingGroup, counts: bool) -> None:
        """Fetch a group for a round, and raise what is wrong with it where it counts."""
        ...

    async def keep_step(self, part: Part, number: int, counts: bool) -> GroupNotes:
        """Replay a part of the group that was prepared, together with all other ranks."""
        ...

    async def finish(self, end: StepEnd) -> StepTaken:
        """The optimizer step on what all ranks summed."""
        ...

    async def publish(self) -> WeightsManifest:
        """Publish the current parameters as a new version."""
        ...

    async def follow(self, manifest: WeightsManifest, check: bool) -> None:
        """Have the published version too; LearnerLost where ``check`` finds other bytes."""
        ...

    async def save(self, folder: str) -> None:
        """Write the learner's state."""
        ...

    async def load(self, folder: str) -> int:
        """Restore it; returns the step."""
        ...


class RankedLearner:
    """:class:`alphagrpo.ports.Learner` over ranks."""

    def __init__(
        self, ranks: Sequence[Rank], config: RunConfig, deadlines: Deadlines | None = None
    ) -> None:
        self._ranks, self._config = ranks, config
        self._turns = [asyncio.Semaphore(CALLS) for _ in ranks]
        self._deadlines = deadlines or Deadlines(config.deadlines)
        self._state = LearnerState(step=0, version=-1)
        self._forget(-1)

    async def start(self) -> None:
        """Bring the ranks together, and prove that they have the same model.

        Raises:
            EnvironmentProblem: where they hold other parameters, or do not meet in time.
        """
        if len(self._ranks) == 1:
            return
        prints = await self._all("proof", lambda rank, _: rank.fingerprint())
        for index, own in enumerate(prints):
            if own != prints[0]:
                raise EnvironmentProblem(
                    "all ranks of the learner must have the same parameters at the start, rank "
                    f"{index} has {own[:12]} and rank 0 {prints[0][:12]}; give all nodes the same "
                    "model folder"
                )
        host, port = await self._call(0, "meeting", self._ranks[0].open)
        await self._all("meeting", lambda rank, index: rank.join(host, port, index))

    async def begin(self, attempt: int) -> None:
        """Begin a step; what was summed for an earlier attempt is forgotten."""
        self._forget(attempt)
        self._state, *_ = await self._all("begin", lambda rank, _: rank.begin(attempt))

    def _forget(self, attempt: int) -> None:
        self._attempt, self._settling = attempt, Settling()
        self._notes: list[list[GroupNotes]] = [[] for _ in self._ranks]
        self._calls = [0] * len(self._ranks)

    async def accumulate(self, block: TrainingBlock) -> None:
        """Hand each rank its groups of the block; returns once they are replayed."""
        if block.order.attempt != self._attempt:
            return
        notes, settled = self._notes, self._settling.arrived(block.order)
        calls = []
        for index in range(len(self._ranks)):
            if groups := [group for group in block.groups if group.rank == index]:
                order = CallOrder(self._attempt, self._calls[index], settled)
                self._calls[index] += 1
                calls.append(self._replay(index, groups, order, notes[index]))
        await asyncio.gather(*calls)

    async def _replay(
        self,
        index: int,
        groups: Sequence[TrainingGroup],
        order: CallOrder,
        notes: list[GroupNotes],
    ) -> None:
        notes += await self._call(index, "replay", self._ranks[index].accumulate, groups, order)

    async def finish(self, denominator: float) -> UpdateReport:
        """End the step: the same on every rank."""
        groups = [group for own in self._notes for group in own]
        end, figures = step_end(groups, denominator, self._state, self._config)
        taken = await self._all("step", lambda rank, _: rank.finish(end))
        return update_report(self._notes, taken, figures)

    async def publish(self) -> WeightsManifest:
        """Publish rank 0's parameters; the others prove theirs now and then, and each time where
        pictures are drawn with them.
        """
        manifest = await self._call(0, "publication", self._ranks[0].publish)
        learner = self._config.learner
        check = learner.on_runners or self._state.step % learner.check_every == 0
        await self._all("following", lambda rank, _: rank.follow(manifest, check), first=1)
        return manifest

    async def save(self, folder: str) -> None:
        """Write the learner's state into ``folder``."""
        await self._call(0, "checkpoint", self._ranks[0].save, folder)

    async def load(self, folder: str) -> int:
        """Restore it on every rank; returns the step."""
        steps = await self._all("restoring", lambda rank, _: rank.load(folder))
        return steps[0]

    async def _all(
        self, kind: str, ask: Callable[[Rank, int], Awaitable[T]], *, first: int = 0
    ) -> list[T]:
        """Ask every rank from ``first`` on, all at once."""
        calls = (
            self._call(index, kind, ask, rank, index)
            for index, rank in enumerate(self._ranks)
            if index >= first
        )
        return list(await asyncio.gather(*calls))

    async def _call(
        self, index: int, kind: str, ask: Callable[..., Awaitable[T]], *arguments: object
    ) -> T:
        """A few calls of a rank at a time, each within its deadline."""
        whom = Whom(f"rank {index} of the learner", kind, self._ranks[index].alive)
        async with self._turns[index]:
            try:
                return await self._deadlines.kept(ask(*arguments), whom)
            except ProcessSilent as error:
                raise LearnerLost(
                    f"{error}; the ranks are started again from the last checkpoint"
                ) from None
