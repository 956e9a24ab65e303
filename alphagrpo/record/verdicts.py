"""Verdicts of steps that are taken again: kept when the ledger is cut, to be given once more.

A judge need not be bit-reproducible. For a step that is taken again after a death to have the
rewards that were recorded of it, the same picture with the same question must have the same verdict
(:mod:`alphagrpo.judging.kept` gives it).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alphagrpo.files import replacing

log = logging.getLogger(__name__)

KEPT_VERDICTS = "kept-verdicts.parquet"
"""In a run's folder, while steps are taken again."""
UNREADABLE = (OSError, ValueError, LookupError)
"""What reading a damaged file raises; pyarrow's own errors are of these kinds."""
_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("picture", pa.string()),
        ("question", pa.string()),
        ("form", pa.string()),
        ("judge", pa.string()),
        ("p_yes", pa.float64()),
        ("grade", pa.int8()),
    ]
)


class Asked(NamedTuple):
    """What was asked, and who answered."""

    picture: str
    """Content hash."""
    question: str
    """Its text: ids belong to a question set."""
    form: str
    judge: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What was answered, as a :class:`alphagrpo.types.Verdict` has it."""

    p_yes: float
    grade: int | None


def keep_verdicts(path: Path, parts: Sequence[Path]) -> None:
    """Keep the verdicts of some ledger files at ``path``; nothing is written where there are none.

    Those that were kept there before stay and come first. A file that cannot be read is passed over
    with a warning.
    """
    if not parts:
        return
    files = [path, *parts] if path.exists() else parts
    tables = [table for table in map(_verdicts, files) if table is not None]
    with replacing(path) as partial:
        pq.write_table(pa.concat_tables([_SCHEMA.empty_table(), *tables]), partial)


def _verdicts(path: Path) -> pa.Table | None:
    try:
        table = pq.read_table(path, columns=_SCHEMA.names).select(_SCHEMA.names).cast(_SCHEMA)
    except UNREADABLE as error:
        log.warning("verdicts in %s cannot be kept: %s", path, error)
        return None
    return table.filter(pc.is_valid(table["p_yes"]))


def read_verdicts(path: Path) -> dict[Asked, Answered]:
    """What was kept at ``path``; of several answers to one question the first.

    Raises one of :data:`UNREADABLE` where it cannot be read.
    """
    columns = pq.read_table(path, schema=_SCHEMA).to_pydict()
    keys = map(Asked, *(columns[name] for name in Asked._fields))
    verdicts: dict[Asked, Answered] = {}
    for key, p_yes, grade in zip(keys, columns["p_yes"], columns["grade"], strict=True):
        verdicts.setdefault(key, Answered(p_yes, grade))
    return verdicts


def forget_verdicts(path: Path, step: int) -> None:
    """Forget what was kept once ``step``, which has been taken again, is the last it is of."""
    if path.exists() and _last_step(path) <= step:
        path.unlink()


def _last_step(path: Path) -> int:
    """The last step that gave one of the verdicts; 0 where there are none to be read."""
    try:
        return pc.max(pq.read_table(path, columns=["step"])["step"]).as_py() or 0
    except UNREADABLE:
        return 0
