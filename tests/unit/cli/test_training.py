"""A run over fakes: the real loop, folder, recorder and report; no Ray and no model."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alphagrpo.cli import training as training_command
from alphagrpo.cli.again import Asked
from alphagrpo.cli.console import Narrator
from alphagrpo.config import RunConfig
from alphagrpo.errors import PolicyDataError
from alphagrpo.eval.figures import share_all_right, summarise
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.manifest import step_of
from alphagrpo.record.recorder import Recorder
from alphagrpo.report import render
from alphagrpo.report.render import write_report
from alphagrpo.report.view import Progress
from tests.fake_training import LearningPool, config_in, train, world_judges
from tests.fakes import (
    make_config,
)

__all__ = ["world_judges"]


def test_a_run_with_lag_is_told_of_it_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_command, "precheck", lambda *_, **__: SimpleNamespace(resume=None))
    monkeypatch.setattr(training_command, "_with_mesh", lambda *_: 0)
    asked = Asked(Path("run.yaml"))
    for max_lag in (0, 1):
        config = make_config(output=str(tmp_path), rollout={"max_lag": max_lag})
        training_command.train(config, asked, resume=False, narrator=Narrator())
        told = "35 to 49 % of the image terms" in capsys.readouterr().out
        assert told == bool(max_lag)


def test_a_run_leaves_everything_the_design_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(config_in(tmp_path))
    summary = json.loads((folder.path / "summary.json").read_text())
    assert summary["steps"] == 4
    assert summary["samples"] == {"drawn": 48, "scored": 48, "invalid": 0, "trained": 48}
    assert set(summary["time"]) == {"rollout_s", "verify_wait_s", "learn_s", "sync_s"}
    assert set(summary["weights"]) == {"version", "checksum"}
    assert summary["weights"]["version"] == 4
    for phase in ("before", "after"):
        for sort in ("plain", "thought"):
            figures = summary["evaluation"][phase][sort]
            assert figures["n"] == 6
            assert {"per_question", "all_right", "dvreward"} <= set(figures)
    assert summary["evaluation"]["difference"]["plain"]["all_right"]["n"] == 6
    assert "max_abs_log_ratio_step0" in summary["parity"]
    assert summary["memory"]["mesh_gib"] > 0
    assert [line["step"] for line in folder.metrics()] == [1, 2, 3, 4]
    assert [step_of(path) for path in folder.checkpoints()] == [0, 2, 4]
    assert len(list((folder.path / "ledger").glob("*.parquet"))) == 4
    assert folder.report_path.stat().st_size > 10_000
    shown = capsys.readouterr().out
    assert "evaluating before" in shown
    assert "step    3/4" in shown
    assert "samples/s" in shown
    assert "left " in shown
    assert "memory of the whole mesh" in shown
    assert str(folder.report_path) in shown


def test_probes_between_show_the_held_out_share_without_the_services(tmp_path: Path) -> None:
    lines = train(config_in(tmp_path)).metrics()
    assert [("heldout/plain_all_right" in line) for line in lines] == [False, True, False, False]
    assert "heldout/plain_dvreward" not in lines[1]


def test_a_step_shows_the_held_out_share_that_was_measured_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(config_in(tmp_path))
    printed = re.findall(r"step +\d+/4 .* held-out +(\S+)", capsys.readouterr().out)
    probe = folder.evaluation("probe")
    assert [line.sort for line in probe] == ["plain"] * 3 + ["thought"] * 3
    probed = {line.id for line in probe}
    before = [line for line in folder.evaluation("before") if line.id in probed]
    first, then = (f"{share_all_right(summarise(lines)):.0%}" for lines in (before, probe))
    assert first != then, "or this would say nothing"
    assert printed == [first, then, then, then]


def test_a_resumed_run_shows_the_share_that_was_measured_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(config_in(tmp_path, num_steps=3))
    capsys.readouterr()
    train(config_in(tmp_path, num_steps=4), resume=True)
    (printed,) = re.findall(r"step +\d+/4 .* held-out +(\S+)", capsys.readouterr().out)
    assert printed == f"{share_all_right(summarise(folder.evaluation('probe'))):.0%}"


def test_the_minutes_end_a_run_and_the_summary_says_so(tmp_path: Path) -> None:
    folder = train(config_in(tmp_path, max_minutes=1e-6))
    assert len(folder.metrics()) == 1
    assert "max_minutes" in folder.summary().stopped_by
    assert folder.evaluation("after")


def test_minutes_are_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which every step takes half a minute, one minute is two steps."""
    clock = itertools.count(0.0, 30.0)
    monkeypatch.setattr(training_command, "perf_counter", lambda: next(clock))
    folder = train(config_in(tmp_path, max_minutes=1.0))
    assert [line["time/wall_s"] for line in folder.metrics()] == [30.0, 30.0]


def test_a_resumed_run_with_lag_counts_its_wall_seconds_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps overlap with lag; by a clock on which each takes half a minute, two minutes are four of
    them, before and after the interruption."""
    clock = itertools.count(0.0, 30.0)
    monkeypatch.setattr(training_command, "perf_counter", lambda: next(clock))
    train(config_in(tmp_path, max_lag=1, num_steps=2))
    folder = train(config_in(tmp_path, max_lag=1, num_steps=9, max_minutes=2.0), resume=True)
    assert [line["time/wall_s"] for line in folder.metrics()] == [30.0] * 4
    summary = folder.summary()
    assert summary.training_s == 120.0
    assert summary.stopped_by == "training.max_minutes (2)"


def test_the_ledger_has_the_step_that_ended_the_run_until_it_is_taken_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Unscored(LearningPool):
        async def roll_out(self, *args: Any, **options: Any) -> Any:
            report = await super().roll_out(*args, **options)
            if len(self.jobs) <= 6:
                return report
            samples = [replace(s, reward=None, invalid_reason="late") for s in report.samples]
            return replace(report, samples=tuple(samples))

    config = config_in(tmp_path)
    with pytest.raises(PolicyDataError, match="step 3 has 100%"):
        train(config, pool=Unscored())
    folder = RunFolder.open(config.folder)
    assert [line["step"] for line in folder.metrics()] == [1, 2]
    rows = folder.ledger(3)
    assert len({row["prompt_id"] for row in rows}) == 3
    assert {(row["invalid_reason"], row["advantage"]) for row in rows} == {("late", None)}
    resumed = train(config, resume=True)
    assert {row["valid"] for row in resumed.ledger(3)} == {True}


def test_a_ledger_that_cannot_be_written_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(jobs: int) -> None:
        if jobs == 9:
            raise RuntimeError("the machine is gone")

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Recorder, "record_failed", full)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train(config_in(tmp_path), pool=LearningPool(crash))
    assert "the ledger of step 4 could not be written" in capsys.readouterr().out


def pages_of(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the page says of the run's state each time it is written."""
    pages: list[str] = []

    def write(folder: RunFolder, progress: Progress | None = None) -> Path:
        path = write_report(folder, progress)
        text = path.read_text(encoding="utf-8")
        (stands,) = re.findall(r'<p class="state(?: live)?">([^;]*);', text)
        assert ("http-equiv" in text) == ("Under way" in stands)
        pages.append(stands)
        return path

    monkeypatch.setattr(render, "write_report", write)
    return pages


def test_the_report_is_written_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path, report_every=2, num_steps=5)
    pages = pages_of(config, monkeypatch)
    folder = train(config)
    assert pages == [
        "Under way, before the first of 5 steps",
        "Under way, step 2 of 5, about 1 min left",
        "Under way, step 4 of 5, about 1 min left",
        "5 steps",
    ]
    shown = capsys.readouterr().out
    assert f"written again every 2 steps: {folder.report_path}" in shown


def test_a_resumed_runs_page_begins_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config_in(tmp_path, num_steps=2))
    config = config_in(tmp_path, num_steps=3, max_minutes=0.9)
    pages = pages_of(config, monkeypatch)
    train(config, resume=True)
    assert pages == ["Under way, step 2 of 3, about 1 min left", "3 steps"]


def test_a_page_that_cannot_be_made_is_told_and_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_args: object) -> Path:
        raise ZeroDivisionError("a chart without a width")

    monkeypatch.setattr(render, "write_report", broken)
    folder = train(config_in(tmp_path, report_every=2))
    assert folder.summary().steps == 4
    assert folder.evaluation("after")
    shown = capsys.readouterr().out
    told = "could not be written (ZeroDivisionError: a chart without a width)"
    assert shown.count(told) == 4
    assert f"`alphagrpo report {folder.path}` writes" in shown


def test_the_page_of_a_run_that_died_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(jobs: int) -> None:
        if jobs == 10:  # in the fourth step
            raise RuntimeError("the machine is gone")

    config = config_in(tmp_path, report_every=2)
    pages = pages_of(config, monkeypatch)
    with pytest.raises(RuntimeError):
        train(config, pool=LearningPool(crash))
    assert pages[-1] == "3 steps, ended by RuntimeError"
    assert "RuntimeError: the machine is gone" in (config.folder / "report.html").read_text()
