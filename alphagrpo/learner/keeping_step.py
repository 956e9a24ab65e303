"""The front of ranks that hold shares of the model: all of them replay together, round by round.

A pass through a sharded layer is a collective of all ranks (:mod:`alphagrpo.learner.sharding`), so
that groups are not dealt beforehand: a round has a part for each rank, all of one form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from alphagrpo.config import RunConfig
from alphagrpo.learner.ranked import Rank, RankedLearner
from alphagrpo.learner.rounds import Round, Rounds
from alphagrpo.learner.steps import Part
from alphagrpo.training import TrainingBlock, TrainingGroup, UpdateReport
from alphagrpo.types import WeightsManifest


class _Turn(NamedTuple):
    """A part of a group that one rank replays in a round."""

    group: TrainingGroup
    part: Part


class SteppingLearner(RankedLearner):
    """:class:`alphagrpo.ports.Learner` over ranks with shares.

    Rounds are made in the order of the groups' places, whoever came first, so that a step gives the
    same bits streamed or not. A group that is late holds up all later ones.
    """

    def __init__(self, ranks: Sequence[Rank], config: RunConfig) -> None:
        self._rounds = asyncio.Lock()
        super().__init__(ranks, config)

    def _forget(self, attempt: int) -> None:
        super()._forget(attempt)
        self._waiting: dict[int, TrainingGroup] = {}
        self._dealt: Rounds[_Turn] = Rounds(len(self._ranks))
        """The task decides a part's form."""
        self._number = 0

    async def begin(self, attempt: int) -> None:
        """Begin a step; what was summed for an earlier attempt is forgotten."""
        async with self._rounds:
            await super().begin(attempt)

    async def accumulate(self, block: TrainingBlock) -> None:
        """Replay as many whole rounds as there are parts for."""
        if block.order.attempt != self._attempt:
            return
        self._waiting |= {group.place: group for group in block.groups}
        settled = self._settling.arrived(block.order)
        async with self._rounds:
            if block.order.attempt == self._attempt:
                await self._take_rounds(settled)

    async def finish(self, denominator: float) -> UpdateReport:
        """Replay what is left, and end the step."""
        async with self._rounds:
            last = max(self._waiting, default=-1) + 1
            await self._take_rounds(last)
            for round_ in self._dealt.rest():
                await self._replay_round(round_)
            return await super().finish(denominator)

    async def publish(self) -> WeightsManifest:
        """Publish the parameters, which all ranks gather."""
        manifest, *_ = await self._all("publication", lambda rank, _: rank.publish())
        return manifest

    async def save(self, folder: str) -> None:
        """Write the learner's state into ``folder``, each rank its share."""
        await self._all("checkpoint", lambda rank, _: rank.save(folder))

    async def _take_rounds(self, settled: int) -> None:
        for place in sorted(place for place in self._waiting if place < settled):
            group = self._waiting.pop(place)
            for task, turn in self._parts(group):
                if round_ := self._dealt.add(task, turn):
                    await self._replay_round(round_)

    def _parts(self, group: TrainingGroup) -> list[tuple[str, _Turn]]:
        parts: list[tuple[str, _Turn]] = [(group.task, _Turn(group, "samples"))]
        if group.drafts is not None:
            parts.insert(0, ("rt2i", _Turn(group, "drafts")))
        return parts

    async def _replay_round(self, round_: Round[_Turn]) -> None:
        turns, counting = round_.parts, round_.counting
        number, self._number = self._number, self._number + 1
        await self._all(
            "fetching", lambda rank, index: rank.prepare(turns[index].group, index < counting)
        )
        notes = await self._all(
            "round",
            lambda rank, index: rank.keep_step(turns[index].part, number, index < counting),
        )
        for own, note in zip(self._notes[:counting], notes, strict=False):
            own.append(note)


def front_of(ranks: Sequence[Rank], config: RunConfig) -> RankedLearner:
    """The front of a config's ranks."""
    return SteppingLearner(ranks, config) if config.sharded else RankedLearner(ranks, config)
