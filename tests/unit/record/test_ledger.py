"""The ledger read back from parquet: every reward can be traced to what made it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alphagrpo.ports import GroupReport, Sample
from alphagrpo.record.ledger import read_ledger, rows_of_group, write_ledger
from alphagrpo.rewards.programs import RewardProgram, configure, reward_program
from alphagrpo.training_batch import SampleWeights, TrainingGroup
from tests.fakes import FakeVerifier, make_config, make_job, make_prompts, make_questions

CONFIG = make_config()


async def ledger(program: RewardProgram, path: Path) -> list[dict]:
    """Rows, from a parquet file, of a group with one scored picture and one that failed."""
    made = make_questions("1 red circle")
    pixels = np.full((4, 4, 3), 7, np.uint8)
    verdicts = await FakeVerifier(lambda *_: 0.6).verify(pixels, program.questions(made))
    score = program.score(made, verdicts)
    assert score is not None
    samples = (
        Sample(id="0", thought="", score=None, reward=None, invalid_reason="verifier was late"),
        Sample(id="1", thought="", score=score, reward=score.value),
    )
    report = GroupReport(
        job=make_job(make_prompts(1)[0], CONFIG),
        questions=made,
        samples=samples,
        reference=None,
        runner="r",
    )
    weights = SampleWeights((0.0, 0.5), (0.0, 1.0))
    training = TrainingGroup(reference=None, samples=weights)
    write_ledger(path, rows_of_group(3, 0, report, training))
    return read_ledger(path)


async def test_a_graded_reward_can_be_traced(tmp_path: Path) -> None:
    rows = await ledger(reward_program("holistic"), tmp_path / "a.parquet")
    failed, content, clean = rows[0], *rows[2:]
    assert [row["question_id"] for row in rows] == ["content", "clean"] * 2
    assert "1 red circle" in content["question"]
    for row, kind in ((content, "semantic"), (clean, "quality")):
        assert row["kind"] == kind
        assert (row["program"], row["aggregate"], row["form"]) == (
            "holistic", "geometric", "grade",
        )  # fmt: skip
        assert (row["grade"], row["p_yes"]) == (6, pytest.approx(0.6))
        assert row["judge"] == "fake@1"
        assert row["questions_revision"].startswith("holistic@")
        assert row["score"] == pytest.approx(0.6)
    assert (failed["grade"], failed["p_yes"], failed["program"]) == (None, None, None)
    assert (failed["form"], failed["invalid_reason"]) == ("grade", "verifier was late")


async def test_a_decomposed_reward_can_be_traced(tmp_path: Path) -> None:
    rows = await ledger(configure(reward_program("dvreward"), aggregate="mean"), tmp_path / "a")
    assert [row["question_id"] for row in rows[2:]] == ["s0", "q0"]
    for row in rows[2:]:
        assert (row["program"], row["aggregate"]) == ("dvreward", "mean")
        assert (row["form"], row["grade"]) == ("yes_no", None)
        assert (row["judge"], row["questions_revision"]) == ("fake@1", "fake@1")


@pytest.mark.parametrize("name", ["dvreward", "dvreward_binary", "single_question"])
async def test_only_what_was_asked_has_a_row_and_unasked_quality_is_null(
    name: str, tmp_path: Path
) -> None:
    program = reward_program(name)
    if name != "single_question":
        program = configure(program, kinds="semantic")
    rows = await ledger(program, tmp_path / "a.parquet")
    assert len(rows) == 2
    assert rows[1]["kind"] == "semantic"
    assert rows[1]["program"] == name
    assert rows[1]["quality"] is None
    assert rows[1]["semantic"] is not None
