"""A rollout pool without Ray: one runner in this process."""

from __future__ import annotations

from collections.abc import Sequence

from alphagrpo.ports import GroupReport, Picture, PictureRequest
from alphagrpo.rollout.runner import GroupRunner
from alphagrpo.types import QuestionSet, RolloutJob


class LocalPool:
    """:class:`alphagrpo.ports.RolloutPool` over one runner; a reference is the group itself."""

    def __init__(self, runner: GroupRunner, groups_in_flight: int = 2) -> None:
        self._runner, self._size = runner, groups_in_flight

    @property
    def size(self) -> int:
        """How many groups are worth having in flight at once."""
        return self._size

    async def roll_out(
        self, job: RolloutJob, questions: QuestionSet, *, keep_pictures: int = 0
    ) -> GroupReport:
        """Sample and score one group here."""
        result = await self._runner.roll_out(job, questions, keep_pictures=keep_pictures)
        return result.report(questions, "local", result.group)

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        """Draw pictures for evaluation here."""
        return await self._runner.draw(requests, version)
