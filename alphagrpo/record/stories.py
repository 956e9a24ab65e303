"""One sample's whole story, as the ledger tells it: from the prompt to the advantage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alphagrpo.errors import ConfigError

if TYPE_CHECKING:
    from alphagrpo.record.folder import RunFolder

_REFERENCE = re.compile(r"(\d+)/(\d+)(?:/(d?)(\d+))?")


@dataclass(frozen=True, slots=True)
class Reference:
    """Which sample is meant, or a whole group: ``STEP/GROUP``, ``STEP/GROUP/SAMPLE``,
    ``STEP/GROUP/dDRAFT``.
    """

    step: int
    group: int
    sample: int | None = None
    stage: str = "sample"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """ConfigError for anything else."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ConfigError(
                "a sample is named STEP/GROUP/SAMPLE, a draft STEP/GROUP/dDRAFT, a group "
                f"STEP/GROUP, got {text!r}; write for example 120/3/7"
            )
        step, group, draft, sample = match.groups()
        stage = "draft" if draft else "sample"
        return cls(int(step), int(group), None if sample is None else int(sample), stage)

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a ledger row of the step is about it."""
        if row["group"] != self.group or row["sample"] is None:
            return False
        return self.sample is None or (row["stage"], row["sample"]) == (self.stage, self.sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A question that was asked about a sample."""

    id: str
    text: str
    kind: str
    tag: str
    p_yes: float | None
    """None where there is no verdict."""
    grade: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Everything the ledger knows of one sample."""

    name: str
    """``STEP/GROUP/SAMPLE``."""
    task: str
    prompt_id: str
    prompt: str
    thought: str
    questions: Sequence[Answered] = field(default_factory=tuple)
    judge: str | None
    program: str | None
    aggregate: str | None
    questions_revision: str | None
    policy_version: int | None
    semantic: float | None
    quality: float | None
    score: float | None
    reward: float | None
    advantage: float | None
    """None where the sample was not trained on."""
    invalid_reason: str
    picture: str
    """Content hash."""
    picture_path: str | None
    """None where the picture was not kept."""
    draft: str | None
    draft_path: str | None
    draft_score: float | None


def stories(folder: RunFolder, reference: Reference) -> list[Story]:
    """The sample that ``reference`` names, or all of a group with its drafts.

    Raises ConfigError where the ledger has no such step, group or sample.
    """
    by_sample: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in folder.ledger(reference.step):
        if reference.holds(row):
            by_sample.setdefault((row["stage"], row["sample"]), []).append(row)
    if not by_sample:
        raise ConfigError(_nothing(folder, reference))
    return [_story(folder, rows) for rows in by_sample.values()]


def _nothing(folder: RunFolder, reference: Reference) -> str:
    steps = folder.ledger_steps()
    if reference.step not in steps:
        span = f"steps {steps[0]} to {steps[-1]}" if steps else "no step"
        return f"the ledger must hold step {reference.step}, it has {span}; name one of these"
    groups = sorted({row["group"] for row in folder.ledger(reference.step)} - {None})
    return (
        f"the ledger of step {reference.step} has the groups {groups[0]} to {groups[-1]}, got "
        f"{reference}; name a sample of one of these"
        if groups
        else f"the ledger of step {reference.step} has no group; name another step"
    )


def _story(folder: RunFolder, rows: Sequence[Mapping[str, Any]]) -> Story:
    first = rows[0]
    mark = "d" if first["stage"] == "draft" else ""
    shared = (
        "task prompt_id prompt program aggregate questions_revision policy_version semantic "
        "quality score reward advantage draft draft_score"
    )
    return Story(
        name=f"{first['step']}/{first['group']}/{mark}{first['sample']}",
        thought=first["thought"] or "",
        questions=tuple(
            Answered(
                id=row["question_id"],
                text=row["question"],
                kind=row["kind"],
                tag=row["tag"],
                p_yes=row["p_yes"],
                grade=row["grade"],
            )
            for row in rows
            if row["question"] is not None
        ),
        judge=next((row["judge"] for row in rows if row["judge"]), None),
        invalid_reason=first["invalid_reason"] or "",
        picture=first["picture"] or "",
        picture_path=_kept(folder, first["picture"]),
        draft_path=_kept(folder, first["draft"]),
        **{name: first[name] for name in shared.split()},
    )


def _kept(folder: RunFolder, digest: str | None) -> str | None:
    """Where a picture lies, if it was kept."""
    if not digest or not folder.has_picture(digest):
        return None
    return str(folder.path / "images" / f"{digest}.png")
