from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from alphagrpo.config import RunConfig, load_config
from alphagrpo.errors import ConfigError
from alphagrpo.eval.lines import HeldOutLine, Opinion
from alphagrpo.files import write_atomically
from alphagrpo.ports import GroupReport, Sample
from alphagrpo.record.folder import RunFolder
from alphagrpo.training import GroupWeights, SampleWeights
from alphagrpo.types import Prompt, RolloutJob, Score, Verdict
from tests.fakes import make_config, make_questions


def config_in(output: Path) -> RunConfig:
    return make_config(output=str(output))


def group(reward: float | None) -> GroupReport:
    prompt = Prompt(id="p0", text="a red circle")
    verdicts = (
        Verdict(question_id="s0", p_yes=0.9, judge="j@1"),
        Verdict(question_id="q0", p_yes=0.4, judge="j@1"),
    )
    score = Score(semantic=0.9, quality=0.4, value=0.6, verdicts=verdicts)
    job = RolloutJob(run="fake", prompt=prompt, visit=0, group_size=2, policy_version=7, seed=1)
    return GroupReport(
        job=job,
        questions=make_questions(prompt.text),
        samples=(
            Sample(id="0", thought="<think> x </think>", score=score, reward=0.6, png=b"png",
                   picture_hash="ab"),
            Sample(id="1", thought="", score=None, reward=reward, invalid_reason="late"),
        ),
        reference=None,
        runner="r",
    )  # fmt: skip


def trained(advantages: tuple[float, ...], weights: tuple[float, ...]) -> GroupWeights:
    return GroupWeights(samples=SampleWeights(advantages, weights))


def test_a_new_folder_holds_a_config_that_can_be_run_again(tmp_path: Path) -> None:
    folder = RunFolder.create(config_in(tmp_path))
    assert folder.path == tmp_path / "fake"
    again = load_config(folder.path / "config.yaml")
    assert again.versions["torch"]
    assert again.model_copy(update={"versions": {}}) == config_in(tmp_path)


def test_a_second_run_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    RunFolder.create(config_in(tmp_path))
    with pytest.raises(ConfigError, match=r"already holds one.*--resume"):
        RunFolder.create(config_in(tmp_path))


def test_what_is_no_run_folder_cannot_be_opened_or_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        RunFolder.open(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        RunFolder.resume(config_in(tmp_path))


def test_metrics_survive_a_line_that_a_crash_cut(tmp_path: Path) -> None:
    folder = RunFolder.create(config_in(tmp_path))
    folder.append_metrics(1, {"reward/mean": 0.5})
    folder.append_metrics(2, {"reward/mean": None})
    with folder.metrics_path.open("a") as file:
        file.write('{"step": 3, "rew')
    assert [line["step"] for line in folder.metrics()] == [1, 2]
    assert folder.metrics()[1]["reward/mean"] is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: must be a JSON object"),
        ("[2]", r"line 2: must be a JSON object, got \[2\]"),
        ("\0" * 40, "line 2: must be a JSON object"),
        ('{"x": 1.0}', "line 2: metrics must have the step as a whole number, got None"),
        ('{"step": null}', "line 2: metrics must have the step as a whole number, got None"),
        ('{"step": "2"}', "line 2: metrics must have the step as a whole number, got '2'"),
        ('{"step": 2, "x": "1.0"}', "line 2: x of step 2 must be a number or null, got '1.0'"),
    ],
)
def test_a_broken_line_of_metrics_is_named_and_one_that_will_be_dropped_is_dropped(
    tmp_path: Path, line: str, says: str
) -> None:
    folder = RunFolder.create(config_in(tmp_path))
    folder.metrics_path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(ConfigError, match=rf"metrics\.jsonl, {says}"):
        folder.metrics()
    with pytest.raises(ConfigError, match=says):
        folder.metrics(until=2)
    folder.rewind(1)
    assert folder.metrics_path.read_text() == '{"step": 1}\n'


def test_a_figure_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    folder = RunFolder.create(config_in(tmp_path))
    with pytest.raises(ConfigError, match="x of step 1 must be a number or null, got 'high'"):
        folder.append_metrics(1, {"x": "high"})
    assert folder.metrics() == []


def test_broken_summaries_and_evaluations_are_named(tmp_path: Path) -> None:
    folder = RunFolder.create(config_in(tmp_path))
    folder.summary_path.write_text('{"steps": "3"}')
    with pytest.raises(
        ConfigError, match=r"summary\.json: RunSummary.steps must be a whole number"
    ):
        folder.summary()
    folder.summary_path.write_text("{")
    with pytest.raises(ConfigError, match=r"summary\.json must be JSON"):
        folder.summary()
    line = HeldOutLine(id="a", sort="plain", prompt="a", opinion=Opinion(thought="", picture=""))
    folder.write_evaluation("before", [line, line])
    path = folder.evaluation_path("before")
    path.write_text(path.read_text().replace('"plain"', '"odd"', 1))
    with pytest.raises(
        ConfigError, match=r"before\.jsonl, line 1: HeldOutLine.sort must be one of"
    ):
        folder.evaluation("before")


def test_a_broken_line_before_the_step_is_found_before_anything_is_changed(tmp_path: Path) -> None:
    folder = RunFolder.create(config_in(tmp_path))
    with folder.checkpoint(2):
        pass
    folder.metrics_path.write_text('{"step": 1}\n{"step": 2\n')
    with pytest.raises(ConfigError, match="line 2"):
        folder.resume_point()
    with pytest.raises(ConfigError, match="line 2"):
        RunFolder.resume(config_in(tmp_path))


def test_resuming_removes_what_killed_writers_left(tmp_path: Path) -> None:
    folder = RunFolder.create(config_in(tmp_path))
    left = [folder.path / name for name in (".metrics.jsonl.1-a.partial", "ledger/.x.2-b.partial")]
    for path in left:
        path.write_text("half")
    RunFolder.resume(config_in(tmp_path))
    assert not any(path.exists() for path in left)


def test_ledger_has_a_row_per_question_and_nulls_where_nothing_could_be_had(tmp_path: Path) -> None:
    folder = RunFolder.create(config_in(tmp_path))
    folder.record_step(4, [group(None)], [trained((1.25, 0.0), (1.0, 0.0))])
    rows = folder.ledger(4)
    assert len(rows) == 4
    first, last = rows[0], rows[-1]
    assert (first["question_id"], first["kind"], first["judge"]) == ("s0", "semantic", "j@1")
    assert first["p_yes"] == pytest.approx(0.9)
    assert first["advantage"] == pytest.approx(1.25)
    assert (first["prompt"], first["policy_version"]) == ("a red circle", 7)
    assert last["p_yes"] is None
    assert last["reward"] is None
    assert last["advantage"] is None
    assert not last["valid"]
    assert last["invalid_reason"] == "late"
    assert folder.picture("ab") == b"png"
    assert folder.picture("cd") is None
    assert folder.picture("") is None


def test_pictures_of_drafts_are_kept_as_well(tmp_path: Path) -> None:
    folder = RunFolder.create(config_in(tmp_path))
    draft = Sample(id="d", thought="", score=None, reward=None, png=b"draft", picture_hash="de")
    folder.record_step(1, [replace(group(0.1), drafts=(draft,), draft=0)], [None])
    assert folder.picture("de") == b"draft"
    assert folder.picture("ab") == b"png"


def test_a_failed_checkpoint_leaves_the_old_ones_and_nothing_half_done(tmp_path: Path) -> None:
    folder = RunFolder.create(config_in(tmp_path))

    def interrupted() -> None:
        with folder.checkpoint(2) as path:
            (path / "state.json").write_text("{")
            raise KeyboardInterrupt

    with folder.checkpoint(1) as path:
        (path / "state.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in folder.checkpoints()] == ["step-000001"]
    _, newest = RunFolder.resume(config_in(tmp_path))
    assert newest == folder.checkpoints_path / "step-000001"
    assert [path.name for path in folder.checkpoints_path.iterdir()] == ["step-000001"]


def test_resuming_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder.create(config_in(tmp_path))
    for step in (1, 2, 3):
        folder.append_metrics(step, {"x": step})
        folder.record_step(step, [group(0.1)], [None])
    opinion = Opinion(thought="", picture="")
    for phase in ("before", "after"):
        line = HeldOutLine(id="a", sort="plain", prompt="a", opinion=opinion)
        folder.write_evaluation(phase, [line])
    with folder.checkpoint(2):
        pass
    resumed, newest = RunFolder.resume(config_in(tmp_path))
    assert newest is not None
    assert [line["step"] for line in resumed.metrics()] == [1, 2]
    assert {row["step"] for row in resumed.ledger()} == {1, 2}
    assert [bool(resumed.evaluation(phase)) for phase in ("before", "after")] == [True, False]


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    folder = RunFolder.create(config_in(tmp_path))
    for step in (10, 20, 30):
        with folder.checkpoint(step):
            pass
    folder.prune_checkpoints(2)
    assert [path.name for path in folder.checkpoints()] == ["step-000020", "step-000030"]


def test_atomic_writing_replaces_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "summary.json"
    write_atomically(path, json.dumps({"a": 1}))
    write_atomically(path, json.dumps({"a": 2}))
    assert yaml.safe_load(path.read_text()) == {"a": 2}
    assert [entry.name for entry in path.parent.iterdir()] == ["summary.json"]
