"""A job under way at a runner, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

from alphagrpo.ports import GroupReport, Picture, Sample, Timings
from alphagrpo.rollout.refining import Drafts
from alphagrpo.types import Group, QuestionSet, RolloutJob


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutResult:
    """A group sampled and scored."""

    group: Group
    samples: tuple[Sample, ...]
    timings: Timings
    drafts: tuple[Sample, ...] = ()
    draft: int | None = None
    effect: float | None = None
    """See :attr:`alphagrpo.ports.GroupReport.effect`."""

    def report(self, questions: QuestionSet, runner: str, reference: object) -> GroupReport:
        """The small half, as the loop sees it."""
        return GroupReport(
            job=self.group.job,
            questions=questions,
            samples=self.samples,
            reference=reference,
            runner=runner,
            timings=self.timings,
            drafts=self.drafts,
            draft=self.draft,
            effect=self.effect,
        )


@dataclass(slots=True)
class Order:
    """A job under way, and what is already there of it."""

    job: RolloutJob
    questions: QuestionSet
    keep_pictures: int
    pictures: tuple[Picture, ...] = ()
    """Untrained drafts as drawn."""
    drafts: Drafts | None = None
    """The same with their scores, as far as these could be had."""
    group: Group | None = None
    sample_s: float = 0.0
    verify_s: float = 0.0
    pull_s: float = 0.0
    sampled: float = field(default_factory=perf_counter)
    """When the last of it was sampled; when it came, where nothing was."""

    @property
    def timings(self) -> Timings:
        """As the report tells them, once the last answer is there."""
        return Timings(
            sample_s=self.sample_s,
            verify_s=self.verify_s,
            pull_s=self.pull_s,
            tail_s=perf_counter() - self.sampled,
        )


def order_key(job: RolloutJob) -> tuple[object, ...]:
    """What a job that comes again is known by."""
    return (job.prompt.id, job.visit, job.policy_version, job.task, job.first)
