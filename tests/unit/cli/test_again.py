"""Asked for twice, a run says how to go on: as it was asked for, by hand or through make."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alphagrpo.cli import training
from alphagrpo.cli.again import ASKED_BY, Asked, ending, refuse_used
from alphagrpo.cli.console import Narrator
from alphagrpo.cli.main import main
from alphagrpo.cli.stopping import StopSwitch
from alphagrpo.config import RunConfig
from alphagrpo.errors import ConfigError
from alphagrpo.record.folder import RunFolder
from tests.synthetic_run import ROOT, make_run, synthetic_config

DEMO = "deploy/configs/shapes-rt2i.yaml"
ASKED = Asked(Path(DEMO))


@pytest.fixture(autouse=True)
def called_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ASKED_BY, raising=False)


def config_in(output: Path, **changes: str) -> RunConfig:
    return synthetic_config(output, **changes)


def refusal(config: RunConfig, asked: Asked = ASKED) -> str:
    with pytest.raises(ConfigError) as caught:
        refuse_used(config, asked)
    return str(caught.value)


def test_a_command_is_asked_again_with_the_settings_it_had() -> None:
    asked = Asked(Path("my run.yaml"), ("seed=7", "data.train=a b.txt"))
    command = asked.again(resume=True).strip("`")
    assert shlex.split(command) == [
        "alphagrpo", "train", "my run.yaml", "--resume", "--set", "seed=7", "--set",
        "data.train=a b.txt",
    ]  # fmt: skip
    command = asked.again("seed=8", "name=b").strip("`")
    assert shlex.split(command)[3:] == [
        "--set", "data.train=a b.txt", "--set", "seed=8", "--set", "name=b",
    ], "the new seed takes the place of the old one"  # fmt: skip


def test_through_make_it_is_makes_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASKED_BY, "make demo DEMO_ARGS")
    assert ASKED.again(resume=True) == "`make demo DEMO_ARGS=--resume`"
    asked = Asked(Path(DEMO), ("seed=7",))
    assert asked.again(resume=True) == "`make demo DEMO_ARGS='--resume --set seed=7'`"


def test_make_demo_says_that_make_asked() -> None:
    """By make's own account of what it would run; the recipe's variable is the one that is read."""
    recipe = subprocess.run(
        ["make", "-n", "--no-print-directory", "-o", "setup", "demo", "DEMO_ARGS=--resume"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    words = shlex.split(recipe.strip().splitlines()[-1])
    assert words[0] == f"{ASKED_BY}=make demo DEMO_ARGS"
    assert words[2:] == ["train", DEMO, "--resume"]


def test_a_run_that_is_not_finished_can_be_continued_or_another_started(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    RunFolder.create(config)
    (tmp_path / "shapes-rt2i-2").mkdir()
    message = refusal(config)
    assert "already holds one; continue it" in message
    assert f"`alphagrpo train {DEMO} --resume`" in message
    assert f"`alphagrpo train {DEMO} --set name=shapes-rt2i-3`" in message


def test_a_finished_run_says_what_ended_it_and_how_to_go_further(tmp_path: Path) -> None:
    folder = make_run(tmp_path, steps=4, heldout=2)
    for changes, reason, options in (
        ({"training.num_steps": "4"}, "training.num_steps is 4", "training.num_steps=8"),
        (
            {"training.max_minutes": "0.1"},
            "training.max_minutes is 0.1",
            "training.max_minutes=0.2",
        ),
    ):
        config = config_in(tmp_path, **changes)
        end = ending(folder, config)
        assert end is not None
        assert end.reason == f"4 steps in 0.2 minutes, {reason}"
        assert end.further == (options,)
        message = refusal(config)
        assert "already holds one that is finished" in message
        assert str(folder.report_path) in message
        assert f"--resume --set {options}`" in message
    assert ending(folder, config_in(tmp_path)) is None, "400 steps in 13 minutes are not over"


def test_a_run_is_not_finished_before_its_evaluation_after_training(tmp_path: Path) -> None:
    folder = make_run(tmp_path, steps=4, heldout=2, finished=False)
    steps = {"training.num_steps": "4"}
    assert ending(folder, config_in(tmp_path, **steps)) is None
    nothing = {"evaluation.num_plain": "0", "evaluation.num_thought": "0"}
    assert ending(folder, config_in(tmp_path, **steps, **nothing)) is not None
    assert ending(RunFolder(tmp_path / "none"), config_in(tmp_path)) is None


def test_a_folder_that_is_no_runs_is_refused_and_an_unused_one_is_not(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    refuse_used(config, ASKED)
    config.folder.mkdir()
    refuse_used(config, ASKED)
    (config.folder / "notes.txt").write_text("mine", encoding="utf-8")
    assert "needs a folder of its own" in refusal(config)


def test_resuming_a_finished_run_starts_nothing_and_tells_its_outcome(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_args: object, **_options: object) -> None:
        raise AssertionError("something was checked or started")

    monkeypatch.setattr(training, "precheck", started)
    folder = make_run(tmp_path, steps=4, heldout=2)
    before = sorted(folder.path.rglob("*"))
    config = config_in(tmp_path, **{"training.num_steps": "4"})
    assert training.train(config, ASKED, resume=True, narrator=Narrator(as_json=True)) == 0
    *_, outcome, note = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert outcome["event"] == "outcome"
    assert outcome["report"] == str(folder.report_path)
    assert "the run is finished: 4 steps" in note["text"]
    assert f"`alphagrpo train {DEMO} --resume --set training.num_steps=8`" in note["text"]
    assert sorted(folder.path.rglob("*")) == before


def test_the_second_command_names_the_first_ones_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ASKED_BY, "make demo DEMO_ARGS")
    RunFolder.create(config_in(tmp_path))
    assert main(["train", str(ROOT / DEMO), "--set", f"output={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert f"`make demo DEMO_ARGS='--resume --set output={tmp_path}'`" in error
    assert f"`make demo DEMO_ARGS='--set output={tmp_path} --set name=shapes-rt2i-2'`" in error


def test_a_run_that_was_stopped_says_how_to_continue_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(_config: RunConfig, _launch: Any, _narrator: Narrator, stop: StopSwitch) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return stop.exit_code

    monkeypatch.setattr(training, "precheck", lambda *_, **__: SimpleNamespace(resume=None))
    monkeypatch.setattr(training, "_with_mesh", stopped)
    asked = Asked(Path(DEMO), ("seed=7",))
    assert training.train(config_in(tmp_path), asked, resume=False, narrator=Narrator()) == 143
    printed = capsys.readouterr().out
    assert f"continue it with `alphagrpo train {DEMO} --resume --set seed=7`" in printed
