"""Hands a step's groups to the learner: as they arrive, or all at the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from alphagrpo.ports import GroupReport, Learner
from alphagrpo.step.blocks import StepBlocks, places_per_group, training_groups
from alphagrpo.step.drawing import raise_first_failure
from alphagrpo.training import CallOrder, TrainingBlock, TrainingGroup, UpdateReport

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig


class StepFeed:
    """One step on its way into the learner.

    Gradients are summed in the order of the groups' places. Where a group is late, later ones are
    replayed meanwhile, ``learner.groups_ahead`` of a rank at most, and summed when its turn has
    come.
    """

    def __init__(self, config: RunConfig, learner: Learner, attempt: int) -> None:
        self._config, self._learner, self._attempt = config, learner, attempt
        self._places = places_per_group(config.rollout.slices)
        self.blocks = StepBlocks(config)
        self._reports: dict[int, GroupReport | None] = {}
        self._held: dict[int, tuple[TrainingGroup, ...]] = {}
        """Ready to be handed over, by position."""
        self._handed: set[int] = set()
        """Handed over before one of an earlier place."""
        self._settled = 0
        self._calls: list[asyncio.Task[None]] = []

    def add(self, position: int, report: GroupReport | None) -> None:
        """A group is there; None where it is dropped. Raises what became of earlier ones.

        Groups come in any order, each position of the step once.
        """
        raise_first_failure(self._calls)
        self._reports[position] = report
        self._hold(self.blocks.add(position, report))
        if self._config.learner.streamed:
            self._hand_over()

    async def finish(self) -> UpdateReport:
        """All groups have come: the optimizer step."""
        self._hold(self.blocks.close())
        self._hand_over(all_of_them=True)
        await asyncio.gather(*self._calls)
        return await self._learner.finish(self.blocks.denominator)

    async def abandon(self) -> None:
        """The step is given up: nobody waits for its replays any more."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _hold(self, positions: list[int]) -> None:
        for position in positions:
            report = self._reports[position]
            assert report is not None, "a dropped group has no weights"
            groups = training_groups(position, report, self.blocks.weights[position])
            self._held[position] = groups

    def _hand_over(self, *, all_of_them: bool = False) -> None:
        self._settle()
        for position in sorted(self._held):
            if all_of_them or self._may_go(position):
                groups = self._held.pop(position)
                self._handed.add(position)
                self._settle()
                settled = self._settled * self._places
                order = CallOrder(self._attempt, len(self._calls), settled)
                block = TrainingBlock(groups=groups, order=order)
                self._calls.append(asyncio.create_task(self._learner.accumulate(block)))

    def _settle(self) -> None:
        """All positions below are handed over or dropped."""
        while self._settled in self._handed or (
            self._settled in self._reports and self._reports[self._settled] is None
        ):
            self._handed.discard(self._settled)
            self._settled += 1

    def _may_go(self, position: int) -> bool:
        most = self._config.learner.groups_ahead * self._config.num_ranks
        return position == self._settled or len(self._handed) < most
