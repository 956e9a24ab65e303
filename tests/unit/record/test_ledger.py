"""The ledger read back from parquet: every reward can be traced to what made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alphagrpo.ports import GroupReport, Sample
from alphagrpo.record.ledger import read_ledger, rows_of_group, write_ledger
from alphagrpo.rewards.programs import RewardProgram, configure, reward_program
from alphagrpo.training import GroupWeights, SampleWeights
from alphagrpo.types import Score, Verdict
from tests.fakes import FakeVerifier, make_config, make_job, make_prompts, make_questions

CONFIG = make_config()


async def ledger(program: RewardProgram, path: Path) -> list[dict]:
    """Rows, from a parquet file, of a group with one scored picture and one that failed."""
    question_set = make_questions("1 red circle")
    pixels = np.full((4, 4, 3), 7, np.uint8)
    verdicts = await FakeVerifier(lambda *_: 0.6).verify(pixels, program.questions(question_set))
    score = program.score(question_set, verdicts)
    assert score is not None
    samples = (
        Sample(id="0", thought="", score=None, reward=None, invalid_reason="verifier was late"),
        Sample(id="1", thought="", score=score, reward=score.value),
    )
    report = GroupReport(
        job=make_job(make_prompts(1)[0], CONFIG),
        questions=question_set,
        samples=samples,
        reference=None,
        runner="r",
    )
    weights = SampleWeights((0.0, 0.5), (0.0, 1.0))
    training = GroupWeights(samples=weights)
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


def sample(name: str, value: float | None) -> Sample:
    verdicts = (Verdict(question_id="q0", p_yes=0.25, judge="fake@1"),)
    score = None
    if value is not None:
        score = Score(semantic=value, quality=None, value=value, verdicts=verdicts)
    return Sample(id=name, thought=name, score=score, reward=value, picture_hash=name)


def refinement(drafts: Sequence[float | None], samples: Sequence[float | None]) -> GroupReport:
    """A refinement that began from the second draft."""
    return GroupReport(
        job=replace(make_job(make_prompts(1)[0], CONFIG), task="srr"),
        questions=make_questions("1 red circle"),
        samples=tuple(sample(f"sample{i}", value) for i, value in enumerate(samples)),
        reference=None,
        runner="r",
        drafts=tuple(sample(f"draft{i}", value) for i, value in enumerate(drafts)),
        draft=1,
    )


def test_a_dropped_group_has_rewards_and_no_advantages() -> None:
    rows = rows_of_group(3, 5, refinement([0.25, 0.5], [0.75, None]), None)
    assert {row["advantage"] for row in rows} == {None}
    assert [row["reward"] for row in rows[::2]] == [0.25, 0.5, 0.75, None]
    assert {(row["step"], row["group"]) for row in rows} == {(3, 5)}


def test_trained_drafts_have_their_own_advantages_and_stand_before_the_samples() -> None:
    training = GroupWeights(
        samples=SampleWeights((1.5, 0.0), (1.0, 0.0)),
        drafts=SampleWeights((-0.5, 0.5), (1.0, 1.0)),
    )
    rows = rows_of_group(3, 0, refinement([0.25, 0.5], [0.75, None]), training)[::2]
    assert [(row["stage"], row["task"], row["sample"], row["advantage"]) for row in rows] == [
        ("draft", "rt2i", 0, -0.5),
        ("draft", "rt2i", 1, 0.5),
        ("sample", "srr", 0, 1.5),
        ("sample", "srr", 1, None),
    ]
    assert [(row["draft"], row["draft_score"]) for row in rows] == [
        (None, None),
        (None, None),
        ("draft1", 0.5),
        ("draft1", 0.5),
    ]
    assert [row["picture"] for row in rows] == ["draft0", "draft1", "sample0", "sample1"]


def test_drafts_that_are_not_trained_on_have_no_advantages() -> None:
    training = GroupWeights(samples=SampleWeights((0.0,), (1.0,)))
    rows = rows_of_group(3, 0, refinement([0.25, 0.5], [0.75]), training)[::2]
    assert [row["advantage"] for row in rows] == [None, None, 0.0], "zero is an advantage"


def test_a_question_without_a_verdict_has_a_row_of_nulls() -> None:
    report = replace(refinement([], [0.75]), draft=None)
    semantic, quality = rows_of_group(3, 0, report, None)
    assert (semantic["question_id"], semantic["p_yes"], semantic["judge"]) == ("s0", None, None)
    assert (quality["question_id"], quality["p_yes"], quality["judge"]) == ("q0", 0.25, "fake@1")
    assert (semantic["draft"], semantic["draft_score"]) == (None, None)
    assert semantic["valid"]
