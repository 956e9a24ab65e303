"""What a run records of its steps: the learner's advantages, sums, steps that come again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from alphagrpo.config import RunConfig
from alphagrpo.eval.figures import differences, summarise
from alphagrpo.loop import StepReport, TrainingLoop
from alphagrpo.ports import GroupReport, Sample
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.recorder import Recorder
from alphagrpo.record.summary import (
    Parity,
    PublishedWeights,
    RunSummary,
    SampleCounts,
    StageSeconds,
    StepPace,
    TurnCounts,
    dropped_groups,
    skipped_updates,
    step0_parity,
    trained_s,
)
from alphagrpo.record.verdicts import KEPT_VERDICTS
from alphagrpo.turns import SkippedTurn
from alphagrpo.types import Prompt, QuestionSet, RolloutJob, Score
from tests.fakes import FakeDecomposer, FakeLearner, FakePool, make_config, make_prompts
from tests.shades import evaluate_shades


class DraftingPool(FakePool):
    """Groups whose second draft all samples begin from; drafts are trained on too.

    Samples of the prompt ``p1`` have no reward, those of other prompts one of their own.
    """

    def __init__(self) -> None:
        super().__init__(reward=self._value)

    @staticmethod
    def _value(job: RolloutJob, index: int) -> float | None:
        return None if job.prompt.id == "p1" else index * (1 + int(job.prompt.id[1:])) / 16

    async def roll_out(
        self, job: RolloutJob, questions: QuestionSet, *, keep_pictures: int = 0
    ) -> GroupReport:
        report = await super().roll_out(job, questions, keep_pictures=keep_pictures)
        return replace(report, drafts=tuple(_draft(i) for i in range(job.group_size)), draft=1)


def _draft(index: int) -> Sample:
    score = Score(semantic=0.5, quality=0.5, value=index / 8, verdicts=())
    return Sample(id="", thought="", score=score, reward=score.value, picture_hash=f"draft{index}")


def config_in(output: Path) -> RunConfig:
    """A config whose steps may drop one of their three groups."""
    return make_config(output=str(output), reward={"max_invalid_share": 0.5})


def loop_over(config: RunConfig, learner: FakeLearner, pool: FakePool) -> TrainingLoop:
    return TrainingLoop(
        config, make_prompts(3), decomposer=FakeDecomposer(), pool=pool, learner=learner
    )


def step_report(step: int, **metrics: float) -> StepReport:
    return StepReport(step=step, version=step, groups=(), training=(), metrics=metrics)


async def test_the_ledger_has_the_advantages_that_the_learner_was_given(tmp_path: Path) -> None:
    config, learner = config_in(tmp_path), FakeLearner()
    folder = RunFolder.create(config)
    report = await loop_over(config, learner, DraftingPool()).run_step()
    Recorder(folder, config).record_step(report)
    learned: dict[tuple[str, str], tuple[float, ...]] = {}
    for group in learner.updates[0].groups:
        name = group.reference.prompt.id
        assert group.drafts is not None
        learned[name, "sample"] = group.samples.advantages
        learned[name, "draft"] = group.drafts.advantages
    assert {name for name, _ in learned} == {"p0", "p2"}, "p1 was dropped"
    assert any(learned["p0", "draft"]), "the drafts' rewards differ"
    recorded: dict[tuple[str, str], dict[int, float | None]] = {}
    for row in folder.ledger(1):
        recorded.setdefault((row["prompt_id"], row["stage"]), {})[row["sample"]] = row["advantage"]
    assert len(recorded) == 6
    for key, by_sample in recorded.items():
        advantages = [by_sample[index] for index in range(4)]
        assert advantages == pytest.approx(learned.get(key, [None] * 4)), key


async def test_ledger_rows_are_numbered_by_the_groups_place_in_the_step(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    folder = RunFolder.create(config)
    report = await loop_over(config, FakeLearner(), DraftingPool()).run_step()
    Recorder(folder, config).record_step(report)
    order = [group.job.prompt.id for group in report.groups]
    assert {(row["group"], row["prompt_id"]) for row in folder.ledger(1)} == set(enumerate(order))
    assert {row["draft"] for row in folder.ledger(1) if row["stage"] == "sample"} == {"draft1"}


def test_a_step_is_one_line_with_its_version_and_figures_that_are_no_numbers_null(
    tmp_path: Path,
) -> None:
    config = config_in(tmp_path)
    folder = RunFolder.create(config)
    report = replace(step_report(3, a=0.5, b=math.nan, c=math.inf), version=8)
    Recorder(folder, config).record_step(report, {"time/wall_s": 2.0})
    (line,) = folder.metrics()
    expected = {"step": 3, "a": 0.5, "b": None, "c": None, "weights/version": 8, "time/wall_s": 2.0}
    assert line == expected
    assert folder.ledger(3) == []


@pytest.mark.parametrize("again", [False, True], ids=["same recorder", "new recorder"])
async def test_a_step_that_comes_again_replaces_it_and_those_after_it(
    again: bool, tmp_path: Path
) -> None:
    config = config_in(tmp_path)
    folder = RunFolder.create(config)
    recorder = Recorder(folder, config)
    loop = loop_over(config, FakeLearner(), FakePool())
    first = await loop.run_step()
    for step in (1, 2, 3):
        recorder.record_step(replace(first, step=step, metrics={"x": float(step)}))
    if again:
        recorder = Recorder(folder, config)
    recorder.record_step(replace(first, step=2, metrics={"x": 20.0}))
    assert [(line["step"], line["x"]) for line in folder.metrics()] == [(1, 1.0), (2, 20.0)]
    assert folder.ledger_steps() == [1, 2]
    for value in (0.0, 30.0):
        recorder.record_step(replace(first, step=3, metrics={"x": value}))
    assert [line["x"] for line in folder.metrics()] == [1.0, 20.0, 30.0]
    assert folder.ledger_steps() == [1, 2, 3]


SKIPPED_TURN = SkippedTurn(
    prompt=Prompt(id="p9", text="nine red circles"),
    visit=2,
    reason="NoQuestions: none",
    put_off=False,
)


async def test_a_skipped_turn_has_one_row_with_its_reason(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    folder = RunFolder.create(config)
    report = await loop_over(config, FakeLearner(), FakePool()).run_step()
    Recorder(folder, config).record_step(replace(report, skipped=(SKIPPED_TURN,)))
    (row,) = [row for row in folder.ledger(1) if row["stage"] == "skipped"]
    told = {name: value for name, value in row.items() if value is not None}
    assert told == {
        "run": "fake", "step": 1, "stage": "skipped", "prompt_id": "p9", "visit": 2,
        "prompt": "nine red circles", "valid": False, "invalid_reason": "NoQuestions: none",
    }  # fmt: skip
    assert {row["visit"] for row in folder.ledger(1) if row["stage"] == "sample"} == {0}


async def test_the_step_that_ended_a_run_is_in_the_ledger_until_it_is_taken_again(
    tmp_path: Path,
) -> None:
    config = config_in(tmp_path)
    folder = RunFolder.create(config)
    loop = loop_over(config, FakeLearner(), FakePool())
    Recorder(folder, config).record_step(await loop.run_step())
    report = await loop.run_step()
    failed = replace(
        report, training=(None,) * 3, metrics={}, skipped=(SKIPPED_TURN,), groups=report.groups
    )
    Recorder(folder, config).record_failed(failed)
    assert [line["step"] for line in folder.metrics()] == [1]
    rows = folder.ledger(2)
    assert {row["advantage"] for row in rows} == {None}
    assert {row["prompt_id"] for row in rows} == {
        "p9", *(group.job.prompt.id for group in report.groups)
    }  # fmt: skip
    Recorder(folder, config).record_step(report)
    assert {row["stage"] for row in folder.ledger(2)} == {"sample"}
    Recorder(folder, config).record_failed(
        replace(failed, step=3, groups=(), training=(), skipped=())
    )
    assert folder.ledger_steps() == [1, 2], "of a step of which nothing is known there is no file"


def test_turns_that_were_not_trained_on_are_counted(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    folder = RunFolder.create(config)
    recorder = Recorder(folder, config)
    recorder.record_step(step_report(1, **{"prompts/put_off": 0.0}))
    assert recorder.summary(wall_s=1.0, weights=None).turns is None
    for step, counts in ((2, (3.0, 1.0, 0.0)), (3, (0.0, 2.0, 4.0))):
        names = ("prompts/put_off", "prompts/skipped", "prompts/dropped")
        recorder.record_step(step_report(step, **dict(zip(names, counts, strict=True))))
    folder.write_summary(recorder.summary(wall_s=1.0, weights=None))
    assert folder.summary().turns == TurnCounts(put_off=3, skipped=3, dropped=4)


async def test_verdicts_of_steps_that_are_cut_are_kept_until_they_are_taken_again(
    tmp_path: Path,
) -> None:
    config = config_in(tmp_path)
    folder = RunFolder.create(config)
    recorder, loop = Recorder(folder, config), loop_over(config, FakeLearner(), FakePool())
    reports = [await loop.run_step() for _ in range(3)]
    for report in reports:
        recorder.record_step(report)
    kept = folder.path / KEPT_VERDICTS
    folder.keep_verdicts(3)
    assert not kept.exists(), "no step is taken again"
    folder.rewind(1)
    assert kept.exists()
    assert folder.ledger_steps() == [1]
    recorder = Recorder(folder, config)
    recorder.record_step(reports[1])


async def test_the_summary_sums_over_the_steps_of_all_parts_of_a_run(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    folder = RunFolder.create(config)
    names = ("drawn", "scored", "invalid", "trained")
    stages = ("rollout_s", "verify_wait_s", "learn_s", "sync_s")
    for step in (1, 2):
        counts = {f"samples/{name}": 10.0 * i + step for i, name in enumerate(names)}
        times = {f"time/{name}": 1.0 * i + step / 8 for i, name in enumerate(stages)}
        # A recorder of its own for each step, as after --resume.
        Recorder(folder, config).record_step(
            step_report(step, **counts, **times, **{"time/step_s": 2.0 * step})
        )
    summary = Recorder(folder, config).summary(wall_s=7.00049, weights=None)
    assert (summary.run, summary.steps) == ("fake", 2)
    assert (summary.wall_s, summary.training_s) == (7.0, 6.0)
    assert summary.samples == SampleCounts(drawn=3, scored=23, invalid=43, trained=63)
    assert summary.time == StageSeconds(
        rollout_s=0.375, verify_wait_s=2.375, learn_s=4.375, sync_s=6.375
    )
    assert summary.pace is None
    assert summary.weights == PublishedWeights()
    assert summary.evaluation.before == summary.evaluation.difference == {}
    assert Recorder(folder, config).earlier_wall_s() == 0.0
    folder.write_summary(summary)
    assert Recorder(folder, config).earlier_wall_s() == 7.0


def test_training_takes_the_wall_seconds_of_its_steps_each_once(tmp_path: Path) -> None:
    lines = [
        {"time/step_s": 3.0, "time/wall_s": 4.0},
        {"time/step_s": 5.0, "time/wall_s": None},
        {"step": 3},
    ]
    assert trained_s(lines) == 9.0
    config = config_in(tmp_path)
    folder = RunFolder.create(config)
    for step in (1, 2):
        report = step_report(step, **{"time/step_s": 3.0})
        Recorder(folder, config).record_step(report, {"time/wall_s": 4.0})
    assert Recorder(folder, config).summary(wall_s=9.0, weights=None).training_s == 8.0


def test_the_summary_has_the_pace_of_steps_that_measured_it(tmp_path: Path) -> None:
    times = {"time/step_s": 12.0, "time/bound_s": 9.0, "time/efficiency": 0.75}
    config = config_in(tmp_path)
    folder = RunFolder.create(config)
    Recorder(folder, config).record_step(step_report(1, **times))
    folder.write_summary(Recorder(folder, config).summary(wall_s=13.0, weights=None))
    assert folder.summary().pace == StepPace(step_s=12.0, bound_s=9.0, efficiency=0.75)
    lagging = make_config(output=str(tmp_path), name="lagging", rollout={"max_lag": 1})
    folder, each = RunFolder.create(lagging), {"busy/draw": 0.5, "busy/learn": 0.5}
    for step, (draw_s, learn_s) in enumerate([(9.0, 3.0), (3.0, 9.0)], start=1):
        stages = {"stage/draw_s": draw_s, "stage/learn_s": learn_s}
        report = step_report(step, **times, **stages, **each)
        Recorder(folder, lagging).record_step(report)
    pace = Recorder(folder, lagging).summary(wall_s=25.0, weights=None).pace
    assert pace == StepPace(step_s=12.0, bound_s=6.0, efficiency=0.5)


async def test_the_summarys_evaluation_is_that_of_the_lines_on_disk(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    folder = RunFolder.create(config)
    _, before = await evaluate_shades({"a": [40], "t": [60]}, sorts={"t": "thought"})
    _, after = await evaluate_shades({"t": [30], "a": [70]}, sorts={"t": "thought"})
    folder.write_evaluation("before", before)
    folder.write_evaluation("after", after)
    evaluation = Recorder(folder, config).summary(wall_s=0.0, weights=None).evaluation
    assert evaluation.before == summarise(before)
    assert evaluation.after == summarise(after)
    assert evaluation.difference == differences(before, after)
    assert evaluation.difference["plain"]["all_right"].mean == 1.0
    assert evaluation.difference["thought"]["all_right"].mean == -1.0


def test_parity_is_that_of_the_first_update() -> None:
    image, text = "parity/image_max_abs_log_ratio", "parity/text_max_abs_log_ratio"
    lines = [{"step": 1}, {"step": 2, image: 2e-7, text: 5e-7}, {"step": 3, image: 1.0, text: 1.0}]
    assert step0_parity(lines) == Parity(
        max_abs_log_ratio_step0=5e-7,
        image_max_abs_log_ratio_step0=2e-7,
        text_max_abs_log_ratio_step0=5e-7,
    )
    only = step0_parity([{image: 3e-7}])
    assert (only.max_abs_log_ratio_step0, only.text_max_abs_log_ratio_step0) == (3e-7, None)
    assert step0_parity([{"step": 1}]) == Parity()


def test_dropped_groups_and_skipped_updates_are_counted_over_steps() -> None:
    lines = [
        {"groups/dropped": 2.0, "learner/skipped": 0.0},
        {"groups/dropped": 1.0, "learner/skipped": 1.0},
        {"learner/skipped": None},
    ]
    assert dropped_groups(lines) == 3
    assert skipped_updates(lines) == 1


def test_a_folder_without_a_summary_has_an_empty_one(tmp_path: Path) -> None:
    folder = RunFolder.create(config_in(tmp_path))
    assert folder.summary() == RunSummary()
    assert folder.summary_document() == {}
