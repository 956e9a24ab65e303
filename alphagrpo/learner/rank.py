"""A rank of the learner in this process: a plain learner, its thread, and its lines out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from alphagrpo.learner.exchange import TorchExchange, find_store, open_store
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.learner.notes import GroupNotes
from alphagrpo.learner.state import load_learner, save_learner
from alphagrpo.learner.steps import LearnerState, Part, StepEnd, StepTaken
from alphagrpo.models.weights import fingerprint
from alphagrpo.policy.devices import computed
from alphagrpo.policy.fit import settings_for_room
from alphagrpo.ports import WeightStore
from alphagrpo.training import CallOrder, Settling, TrainingGroup
from alphagrpo.types import Group, WeightsManifest

T = TypeVar("T")


async def as_it_is(reference: Any) -> Group:
    """A reference that is the group itself."""
    group: Group = reference
    return group


class LocalRank:
    """:class:`alphagrpo.learner.ranked.Rank` over a learner here.

    Everything is computed in one thread, in the order it was asked for, so that the event loop can
    answer meanwhile.
    """

    def __init__(
        self,
        learner: GRPOLearner,
        store: WeightStore,
        *,
        fetch: Callable[[Any], Awaitable[Group]] = as_it_is,
        thread: Executor | None = None,
        host: str = "127.0.0.1",
        adopt: Callable[[WeightsManifest], None] = lambda manifest: None,
        role: str = "the learner",
    ) -> None:
        """Wrap ``learner``.

        Args:
            learner: owned by this rank.
            store: where rank 0 publishes.
            fetch: gets the group behind a reference.
            thread: of one worker, where the model is used by others too; default one of its own.
            host: the address at which other ranks reach this process.
            adopt: is told, in the thread, of which version the parameters are now.
            role: of the process, for people.
        """
        self.learner = learner
        self._store, self._fetch, self._host = store, fetch, host
        self._adopt, self._turn = adopt, asyncio.Lock()
        self._computed = partial(computed, role, settings_for_room(learner.config, "learner"))
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix="learner")
        self._meeting: Any = None
        self._held: TrainingGroup | None = None
        self._attempt, self._settling = -1, Settling()

    async def alive(self) -> None:
        """This process is the one that asks."""

    async def open(self) -> tuple[str, int]:
        """Serve what ranks find one another by, for as long as this process lives."""
        config = self.learner.config
        store = await self._compute(
            open_store, self._host, config.num_ranks, config.learner.deadline_s
        )
        self._meeting = store
        return self._host, store.port

    async def join(self, host: str, port: int, rank: int) -> None:
        """Be one of the config's ranks from now on."""
        await self._compute(self._join, host, port, rank)

    async def fingerprint(self) -> str:
        """Checksum of all parameters and buffers."""
        return await self._compute(fingerprint, self.learner.module)

    async def begin(self, attempt: int) -> LearnerState:
        """Forget what was summed for a step that was not taken, and what still comes of it."""
        async with self._turn:
            self._held, self._attempt, self._settling = None, attempt, Settling()
            return await self._compute(self.learner.begin)

    async def accumulate(
        self, groups: Sequence[TrainingGroup], order: CallOrder
    ) -> Sequence[GroupNotes]:
        """Replay the groups behind the references, one after the other.

        They are fetched at once, while those of an earlier call are replayed. Calls may come in any
        order: what they say of places counts once those before them are there.
        """
        fetched = await asyncio.gather(*(self._fetch(group.reference) for group in groups))
        notes: list[GroupNotes] = []
        async with self._turn:
            if order.attempt != self._attempt:
                return notes
            for group, reference in zip(groups, fetched, strict=True):
                whole = replace(group, reference=reference)
                notes += await self._compute(self.learner.accumulate, [whole])
            await self._compute(self.learner.settle, self._settling.arrived(order))
        return notes

    async def prepare(self, group: TrainingGroup, counts: bool) -> None:
        """Fetch a group for a round, and raise what is wrong with it where it counts."""
        if self._held is None or self._held.place != group.place:
            self._held = replace(group, reference=await self._fetch(group.reference))
        if counts:
            await self._compute(self.learner.check, self._held)

    async def keep_step(self, part: Part, number: int, counts: bool) -> GroupNotes:
        """Replay a part of the group that was prepared, together with all other ranks."""
        return await self._compute(self.learner.keep_step, self._held, part, number, counts)

    async def finish(self, end: StepEnd) -> StepTaken:
        """The optimizer step."""
        return await self._compute(self.learner.finish, end)

    async def publish(self) -> WeightsManifest:
        """Publish the current parameters as a new version; of ranks with shares the first does."""
        manifest, chunks = await self._compute(self.learner.export)
        if not self.learner.shards or self.learner.shards.rank == 0:
            await self._store.publish(chunks, manifest)
        await self._compute(self._adopt, manifest)
        return manifest

    async def follow(self, manifest: WeightsManifest, check: bool) -> None:
        """Have the published version too."""
        await self._compute(self.learner.follow, manifest, check)
        await self._compute(self._adopt, manifest)

    async def save(self, folder: str) -> None:
        """Write the learner's state into ``folder``."""
        await self._compute(save_learner, self.learner, folder)

    async def load(self, folder: str) -> int:
        """Restore it; returns the step."""
        return await self._compute(load_learner, self.learner, folder)

    def _join(self, host: str, port: int, rank: int) -> None:
        config = self.learner.config
        size, deadline_s = config.num_ranks, config.learner.deadline_s
        store = self._meeting if rank == 0 else find_store(host, port, size, deadline_s)
        self.learner.exchange = TorchExchange(store, rank, size, deadline_s)
        if config.sharded:
            self.learner.shard()

    async def _compute(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._computed, function, *arguments
        )
