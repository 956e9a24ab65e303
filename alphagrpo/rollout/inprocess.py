"""A rollout pool without Ray: one runner in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from alphagrpo.ports import Draft, DraftReport, GroupReport, Picture, PictureRequest
from alphagrpo.rollout.runner import GroupRunner
from alphagrpo.types import QuestionSet, RolloutJob

NAME = "local"


class LocalPool:
    """:class:`alphagrpo.ports.RolloutPool` over one runner; a reference is the group itself."""

    def __init__(self, runner: GroupRunner, groups_in_flight: int = 2) -> None:
        self._runner, self._size = runner, groups_in_flight

    @property
    def size(self) -> int:
        """How many groups are worth having in flight at once."""
        return self._size

    async def roll_out(
        self,
        job: RolloutJob,
        questions: QuestionSet,
        *,
        keep_pictures: int = 0,
        draft: Draft | None = None,
    ) -> GroupReport:
        """Sample and score one group here, or a slice of one."""
        result = await self._runner.roll_out(
            job, questions, keep_pictures=keep_pictures, draft=draft
        )
        return result.report(questions, NAME, result.group)

    async def draw_drafts(
        self, job: RolloutJob, questions: QuestionSet, *, keep_pictures: int = 0
    ) -> DraftReport:
        """Draw and score untrained drafts here."""
        report, picture = await self._runner.draw_drafts(
            job, questions, keep_pictures=keep_pictures
        )
        return replace(report, reference=picture, runner=NAME)

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        """Draw pictures for evaluation here."""
        return await self._runner.draw(requests, version)
