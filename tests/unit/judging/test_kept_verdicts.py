"""Recorded verdicts count again, for the judge that gave them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from alphagrpo.errors import ServiceUnavailable
from alphagrpo.images import image_hash
from alphagrpo.judging.kept import KeptVerdicts
from alphagrpo.record.ledger import write_ledger
from alphagrpo.record.verdicts import KEPT_VERDICTS, forget_verdicts, keep_verdicts
from alphagrpo.types import Question, Verdict

PIXELS = np.full((4, 4, 3), 7, np.uint8)
OTHER = np.full((4, 4, 3), 8, np.uint8)
RED = Question(id="s0", text="is it red ?", kind="semantic", tag="Attribute")
SHARP = Question(id="q0", text="is it sharp ?", kind="quality", tag="Texture")
GRADE = Question(id="g", text="is it red ?", kind="semantic", tag="Attribute", form="grade")
EXACT = 0.1 + 1e-12
"""No float32."""


class FickleVerifier:
    """Never the same answer twice; raises while it is down."""

    def __init__(self, judge: str = "judge@1") -> None:
        self.judge, self.calls, self.down = judge, 0, False
        self._answers = itertools.count(1)

    async def verify(
        self, pixels: np.ndarray, questions: Sequence[Question]
    ) -> tuple[Verdict, ...]:
        self.calls += 1
        if self.down:
            raise ServiceUnavailable("down; wait")
        return tuple(
            Verdict(question_id=q.id, p_yes=1 / (1 + next(self._answers)), judge=self.judge)
            for q in questions
        )


def row(pixels: np.ndarray, question: Question, p_yes: float | None, step: int = 3) -> dict:
    return {
        "step": step,
        "picture": image_hash(pixels),
        "question": question.text,
        "form": question.form,
        "judge": "judge@1",
        "p_yes": p_yes,
        "grade": None if p_yes is None or question.form == "yes_no" else round(10 * p_yes),
    }


def keep(folder: Path, rows: Sequence[dict], name: str = "step-000003.parquet") -> Path:
    part, path = folder / "ledger" / name, folder / KEPT_VERDICTS
    write_ledger(part, rows)
    keep_verdicts(path, [part])
    return path


async def test_without_a_file_the_verifier_is_asked(tmp_path: Path) -> None:
    verifier = FickleVerifier()
    kept = KeptVerdicts(verifier, tmp_path / KEPT_VERDICTS)
    (first,) = await kept.verify(PIXELS, [RED])
    (second,) = await kept.verify(PIXELS, [RED])
    assert (first.p_yes, second.p_yes, verifier.calls) == (1 / 2, 1 / 3, 2)


async def test_what_was_recorded_is_given_again_to_the_last_bit(tmp_path: Path) -> None:
    verifier = FickleVerifier()
    kept = KeptVerdicts(
        verifier, keep(tmp_path, [row(PIXELS, RED, EXACT), row(PIXELS, GRADE, 0.3)])
    )
    renamed = Question(id="s7", text=RED.text, kind="semantic", tag="Attribute")
    verdicts = await kept.verify(PIXELS, [renamed, GRADE])
    assert [(v.question_id, v.p_yes, v.grade, v.judge) for v in verdicts] == [
        ("s7", EXACT, None, "judge@1"),
        ("g", 0.3, 3, "judge@1"),
    ]
    assert verifier.calls == 1, "who answers now is known from an answer"
    verifier.down = True
    assert (await kept.verify(PIXELS, [RED]))[0].p_yes == EXACT
    assert verifier.calls == 1, "and then nobody is asked"


async def test_other_pictures_and_questions_are_asked_about(tmp_path: Path) -> None:
    verifier = FickleVerifier()
    kept = KeptVerdicts(
        verifier, keep(tmp_path, [row(PIXELS, RED, EXACT), row(OTHER, SHARP, None)])
    )
    (other,) = await kept.verify(OTHER, [RED])
    assert other.p_yes == 1 / 2
    red, sharp = await kept.verify(PIXELS, [RED, SHARP])
    assert (red.p_yes, sharp.p_yes) == (EXACT, 1 / 4), "only what was recorded"
    (absent,) = await kept.verify(OTHER, [SHARP])
    assert absent.p_yes == 1 / 5, "an absence is no verdict"
    verifier.down = True
    with pytest.raises(ServiceUnavailable):
        await kept.verify(OTHER, [RED])


async def test_another_judge_answers_for_itself(tmp_path: Path) -> None:
    verifier = FickleVerifier("judge@2")
    kept = KeptVerdicts(verifier, keep(tmp_path, [row(PIXELS, RED, EXACT)]))
    for answer in (1 / 2, 1 / 3):
        (verdict,) = await kept.verify(PIXELS, [RED])
        assert (verdict.p_yes, verdict.judge) == (answer, "judge@2")


async def test_the_file_is_looked_for_at_every_call(tmp_path: Path) -> None:
    verifier = FickleVerifier()
    kept = KeptVerdicts(verifier, tmp_path / KEPT_VERDICTS)
    await kept.verify(PIXELS, [RED])
    path = keep(tmp_path, [row(PIXELS, RED, EXACT)])
    assert (await kept.verify(PIXELS, [RED]))[0].p_yes == EXACT
    forget_verdicts(path, 2)
    assert (await kept.verify(PIXELS, [RED]))[0].p_yes == EXACT, "step 3 has not been taken yet"
    forget_verdicts(path, 3)
    assert (await kept.verify(PIXELS, [RED]))[0].p_yes != EXACT
    assert not path.exists()


async def test_the_first_answer_counts_whatever_is_kept_later(tmp_path: Path) -> None:
    keep(tmp_path, [row(PIXELS, RED, EXACT), row(PIXELS, RED, 0.7)])
    path = keep(tmp_path, [row(PIXELS, RED, 0.9, 4), row(PIXELS, SHARP, 0.8, 4)], "step-000004")
    red, sharp = await KeptVerdicts(FickleVerifier(), path).verify(PIXELS, [RED, SHARP])
    assert (red.p_yes, sharp.p_yes) == (EXACT, 0.8)
    forget_verdicts(path, 3)
    assert path.exists(), "step 4 is to come"


async def test_a_damaged_file_costs_its_verdicts_and_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / KEPT_VERDICTS
    path.write_bytes(b"PAR1 no more")
    (verdict,) = await KeptVerdicts(FickleVerifier(), path).verify(PIXELS, [RED])
    assert verdict.p_yes == 1 / 2
    assert str(path) in caplog.text
    keep(tmp_path, [row(PIXELS, RED, EXACT)])
    (verdict,) = await KeptVerdicts(FickleVerifier(), path).verify(PIXELS, [RED])
    assert verdict.p_yes == EXACT
    path.write_bytes(b"PAR1 no more")
    forget_verdicts(path, 1)
    assert not path.exists()


def test_nothing_to_keep_writes_nothing(tmp_path: Path) -> None:
    keep_verdicts(tmp_path / KEPT_VERDICTS, [])
    assert list(tmp_path.iterdir()) == []
