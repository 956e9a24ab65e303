"""A verifier that repeats itself: in a step that is taken again, recorded verdicts count."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alphagrpo.images import image_hash
from alphagrpo.types import Question, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.ports import Verifier
    from alphagrpo.record.verdicts import Answered, Asked

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int]
"""Changes with the file: time, inode, size."""


class KeptVerdicts:
    """:class:`alphagrpo.ports.Verifier` over another, whose recorded verdicts it prefers.

    The verdicts are those at ``path``, which a run writes when it goes back to a checkpoint, and
    removes when it has taken the last of those steps again: whether it is there is looked for at
    every call. A verdict counts for the judge that gave it: which one answers now is known from its
    last answer, so that the first picture is always asked about.
    """

    def __init__(self, verifier: Verifier, path: Path) -> None:
        self._verifier, self._path = verifier, path
        self._stamp: Stamp | None = None
        self._kept: dict[Asked, Answered] = {}
        self._judge: str | None = None

    async def verify(
        self, pixels: NDArray[np.uint8], questions: Sequence[Question]
    ) -> tuple[Verdict, ...]:
        """One verdict per question, in order; raises as the verifier does where it is asked."""
        if _stamp(self._path) != self._stamp:
            await asyncio.to_thread(self._read)
        if not self._kept:
            return await self._verifier.verify(pixels, questions)
        picture = image_hash(pixels)
        known = [self._recorded(picture, question, self._judge) for question in questions]
        whole = tuple(verdict for verdict in known if verdict is not None)
        if len(whole) == len(questions):
            return whole
        verdicts = await self._verifier.verify(pixels, questions)
        self._judge = verdicts[-1].judge
        return tuple(
            self._recorded(picture, question, verdict.judge) or verdict
            for question, verdict in zip(questions, verdicts, strict=True)
        )

    def _recorded(self, picture: str, question: Question, judge: str | None) -> Verdict | None:
        # Imported with the first file: a runner that takes no step again needs no parquet.
        from alphagrpo.record.verdicts import Asked

        if judge is None:
            return None
        found = self._kept.get(Asked(picture, question.text, question.form, judge))
        if found is None:
            return None
        return Verdict(question_id=question.id, p_yes=found.p_yes, judge=judge, grade=found.grade)

    def _read(self) -> None:
        """Take in the file as it is now; where it is gone, forget it."""
        from alphagrpo.record.verdicts import UNREADABLE, read_verdicts

        stamp = _stamp(self._path)
        try:
            kept = read_verdicts(self._path) if stamp else {}
        except FileNotFoundError:
            stamp, kept = None, {}
        except UNREADABLE as error:
            log.warning("kept verdicts in %s cannot be read: %s", self._path, error)
            kept = {}
        self._kept, self._stamp = kept, stamp


def _stamp(path: Path) -> Stamp | None:
    """None where there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
