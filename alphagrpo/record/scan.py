"""Reading a run's ledger step by step: what is held is one step, and only the columns asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alphagrpo.record.folder import STEP_PREFIX

if TYPE_CHECKING:
    from alphagrpo.record.folder import RunFolder

SAMPLE_KEYS = ("group", "stage", "sample", "prompt_id")
"""Columns that tell the samples of a step apart."""
SAMPLE_COLUMNS = ("prompt", "score", "reward", "advantage", "invalid_reason")
QUESTION_COLUMNS = ("question", "tag", "p_yes")
SKIPPED = "skipped"
"""The stage of a row that stands for a prompt of which nothing was drawn."""


@dataclass(frozen=True, slots=True)
class Span:
    """Steps from ``first`` to ``last``, both included; None is open."""

    first: int | None = None
    last: int | None = None

    def __contains__(self, step: int) -> bool:
        return (self.first or 0) <= step and (self.last is None or step <= self.last)


@dataclass(frozen=True, slots=True)
class StepRows:
    """What is read of one step."""

    step: int
    questions: pa.Table
    """A row per question asked about a sample (drafts are left out): :data:`QUESTION_COLUMNS`."""
    samples: Sequence[Mapping[str, Any]]
    """One row per sample, draft and skipped prompt: :data:`SAMPLE_KEYS`, `SAMPLE_COLUMNS`."""


class Query(Protocol):
    """Something that is asked of all steps."""

    def add(self, rows: StepRows) -> None:
        """Take in a step; steps come in order."""
        ...


def ask(folder: RunFolder, queries: Iterable[Query], span: Span) -> None:
    """Read the ledger's steps of ``span`` once, for all ``queries``."""
    asked = list(queries)
    for step, part in ledger_parts(folder, span):
        rows = read_step(step, part)
        for query in asked:
            query.add(rows)


def ledger_parts(folder: RunFolder, span: Span) -> Iterator[tuple[int, Path]]:
    """The ledger's steps inside ``span`` with their files, in order."""
    for step in folder.ledger_steps():
        if step in span:
            yield step, folder.path / "ledger" / f"{STEP_PREFIX}{step:06d}.parquet"


def read_step(step: int, part: Path) -> StepRows:
    """The columns of one ledger file that queries need."""
    table = pq.read_table(part, columns=[*SAMPLE_KEYS, *SAMPLE_COLUMNS, *QUESTION_COLUMNS])
    of_samples = pc.equal(table.column("stage").cast(pa.string()), "sample")
    questions = table.filter(of_samples).select(list(QUESTION_COLUMNS))
    return StepRows(step, questions, first_rows(table, SAMPLE_COLUMNS))


def first_rows(table: pa.Table, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The first row of each sample of a ledger table, with :data:`SAMPLE_KEYS` and ``columns``."""
    keys = zip(*(table.column(name).to_pylist() for name in SAMPLE_KEYS), strict=True)
    firsts: dict[tuple[Any, ...], int] = {}
    for index, key in enumerate(keys):
        firsts.setdefault(key, index)
    chosen = table.select([*SAMPLE_KEYS, *columns]).take(pa.array(firsts.values(), pa.int64()))
    rows: list[dict[str, Any]] = chosen.to_pylist()
    return rows


def samples_by_group(
    samples: Iterable[Mapping[str, Any]], stage: str = "sample"
) -> dict[int, list[Mapping[str, Any]]]:
    """The samples of each group of a step, drafts and skipped prompts left out."""
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for row in samples:
        if row["stage"] == stage:
            groups.setdefault(row["group"], []).append(row)
    return groups
