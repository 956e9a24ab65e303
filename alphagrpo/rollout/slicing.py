"""Groups whose samples are drawn by several runners: split before, put together after.

With fewer groups in a step than runners, some would have nothing to do. A slice is a job of its
own: noise is a function of seed and sample, so that a slice's samples are those of the whole group
but for the geometry of its batch, which its replay shares. Rewards meet in one report, and
statistics are the group's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING

from alphagrpo.ports import (
    Draft,
    GroupReport,
    Picture,
    PictureRequest,
    Sample,
    SlicePool,
    Timings,
)
from alphagrpo.rollout.refining import pick_draft
from alphagrpo.tasks import refinement_of

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.types import QuestionSet, RolloutJob, Score


@dataclass(frozen=True, slots=True)
class _Order:
    """What the loop asked for."""

    job: RolloutJob
    questions: QuestionSet
    keep_pictures: int


class SlicedPool:
    """:class:`alphagrpo.ports.RolloutPool` that has each group drawn in ``rollout.slices``."""

    def __init__(self, pool: SlicePool, config: RunConfig) -> None:
        self._pool, self._config = pool, config

    @property
    def size(self) -> int:
        """How many groups are worth having in flight at once: one more than there is room
        for, since slices may wait in the pool.
        """
        return -(-self._pool.size // self._config.rollout.slices) + 1

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        """Draw pictures for evaluation."""
        return await self._pool.draw(requests, version)

    async def roll_out(
        self, job: RolloutJob, questions: QuestionSet, *, keep_pictures: int = 0
    ) -> GroupReport:
        """Sample and score one group, slice by slice, all at once."""
        order = _Order(job, questions, keep_pictures)
        if job.task != "srr":
            return await self._whole(order)
        if refinement_of(self._config).drafts.trained:
            return await self._refine_trained(order)
        return await self._refine_drawn(order)

    async def _refine_trained(self, order: _Order) -> GroupReport:
        """Refine one of a group of text-to-image samples, which are trained on too."""
        drawing = await self._whole(replace(order, job=replace(order.job, task="rt2i")))
        chosen = pick_draft(drawing.samples, order.job, refinement_of(self._config).drafts)
        if chosen is None:
            return _unscored(order, drawing.samples, drawing.spent)
        source = next(part for part in drawing.slices if chosen in part.job.samples)
        draft = Draft(
            source=source.reference,
            index=chosen - source.job.first,
            score=_score(drawing.samples[chosen]),
        )
        refined = await self._whole(order, draft)
        return replace(
            refined,
            drafts=drawing.samples,
            draft=chosen,
            draft_slices=drawing.slices,
            spent=drawing.spent + refined.spent,
        )

    async def _refine_drawn(self, order: _Order) -> GroupReport:
        """Refine one of some untrained drafts, which one runner draws."""
        drawn = await self._pool.draw_drafts(
            order.job, order.questions, keep_pictures=order.keep_pictures
        )
        spent = ((drawn.runner, drawn.timings),)
        if drawn.chosen is None:
            return _unscored(order, drawn.samples, spent)
        draft = Draft(source=drawn.reference, index=0, score=_score(drawn.samples[drawn.chosen]))
        refined = await self._whole(order, draft)
        return replace(
            refined, drafts=drawn.samples, draft=drawn.chosen, spent=spent + refined.spent
        )

    async def _whole(self, order: _Order, draft: Draft | None = None) -> GroupReport:
        """All slices of a job as one report."""
        jobs = sliced(order.job, self._config.rollout.slices)
        parts = await asyncio.gather(*(self._part(job, order, draft) for job in jobs))
        reports = tuple(report for report, _ in parts)
        sampled = max(ended - report.timings.tail_s for report, ended in parts)
        longest = max(report.timings.verify_s for report in reports)
        return GroupReport(
            job=order.job,
            questions=order.questions,
            samples=tuple(sample for report in reports for sample in report.samples),
            reference=None,
            runner=reports[0].runner,
            timings=Timings(verify_s=longest, tail_s=perf_counter() - sampled),
            slices=reports,
            spent=tuple((report.runner, report.timings) for report in reports),
            effect=max((r.effect for r in reports if r.effect is not None), default=None),
        )

    async def _part(
        self, job: RolloutJob, order: _Order, draft: Draft | None
    ) -> tuple[GroupReport, float]:
        kept = max(0, min(job.size, order.keep_pictures - job.first))
        report = await self._pool.roll_out(job, order.questions, keep_pictures=kept, draft=draft)
        return report, perf_counter()


def sliced(job: RolloutJob, count: int) -> tuple[RolloutJob, ...]:
    """The job's samples in ``count`` parts, the first ones larger by one where they do not divide;
    each with the rank that is to replay it.
    """
    size = job.group_size
    bounds = [-(-size * part // count) for part in range(count + 1)]
    return tuple(
        replace(job, slice=bound, ranks=(rank,))
        for bound, rank in zip(pairwise(bounds), job.ranks, strict=True)
    )


def _unscored(
    order: _Order, drafts: Sequence[Sample], spent: tuple[tuple[str, Timings], ...]
) -> GroupReport:
    """Without a scored draft there is nothing to refine: they are told as samples, with why."""
    return GroupReport(
        job=order.job,
        questions=order.questions,
        samples=tuple(replace(sample, reward=None) for sample in drafts),
        reference=None,
        runner=spent[0][0],
        spent=spent,
    )


def _score(sample: Sample) -> Score:
    assert sample.score is not None, "only a scored draft is chosen"
    return sample.score
