"""What becomes of a run that is told to end, in each of its phases."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alphagrpo.cli import saving, stopping
from alphagrpo.cli import training as training_command
from alphagrpo.cli.heldout import HeldOutEvaluations
from alphagrpo.cli.stopping import StopSwitch
from alphagrpo.cli.training import TrainingRun
from alphagrpo.record.manifest import step_of
from tests.fake_training import FakeRun, config_in, same_ledger, train, world_judges

__all__ = ["world_judges"]


def at(number_of_step: int, number: int = signal.SIGTERM) -> Callable[[int], None]:
    """Sends this process a signal in one step."""

    def preempt(step: int) -> None:
        if step == number_of_step:
            os.kill(os.getpid(), number)

    return preempt


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_checkpoints_and_resume_goes_on(
    tmp_path: Path, number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path, checkpoint_every=4)
    stopped = train(config, on_step=at(2, number), code=code)
    assert [line["step"] for line in stopped.metrics()] == [1, 2]
    assert stopped.summary().stopped_by == signal.Signals(number).name
    assert [step_of(path) for path in stopped.checkpoints()] == [0, 2]
    assert not stopped.evaluation("after")
    assert "abandoned" not in capsys.readouterr().out
    before = stopped.evaluation("before")

    resumed = train(config, resume=True)
    assert [line["step"] for line in resumed.metrics()] == [1, 2, 3, 4]
    assert resumed.evaluation("before") == before
    assert resumed.summary().stopped_by is None
    assert same_ledger(resumed, train(config_in(tmp_path / "other")))


def test_a_second_signal_abandons_the_step_and_what_was_learnt_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "ONE_SIGNAL_S", 0.0)

    def insist(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    folder = train(config_in(tmp_path), on_step=insist, code=143)
    assert [path.name for path in folder.checkpoints()] == [
        "step-000000",
        "step-000002",
        "step-000003",
    ]
    assert folder.summary().steps == 3
    resumed = train(config_in(tmp_path), resume=True)
    assert same_ledger(resumed, train(config_in(tmp_path / "other")))


def test_a_step_longer_than_the_grace_is_abandoned_and_the_last_one_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training_command, "median", lambda _seconds: 3600.0)
    config = config_in(tmp_path, checkpoint_every=4)
    folder = train(config, on_step=at(3), code=143)
    assert folder.summary().steps == 2
    assert [step_of(path) for path in folder.checkpoints()] == [0, 2]
    assert "SIGTERM: what was under way is abandoned" in capsys.readouterr().out


def test_without_any_grace_the_last_checkpoint_is_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path, grace_s=0.0)
    folder = train(config, on_step=at(4), code=143)
    assert [step_of(path) for path in folder.checkpoints()] == [0, 2]
    assert "no time for a checkpoint; --resume goes on after step 2" in capsys.readouterr().out
    resumed = train(config, resume=True)
    assert same_ledger(resumed, train(config_in(tmp_path / "other")))


def test_how_long_steps_take_is_known_from_the_run_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a resumed run, before its first step."""
    asked: list[tuple[float | None, float]] = []

    class Noting(StopSwitch):
        def step(self, expected_s: float | None = None, reserve_s: float = 0.0) -> Any:
            asked.append((expected_s, reserve_s))
            return super().step(expected_s, reserve_s)

    clock = itertools.count(0.0, 30.0)
    for module in (training_command, saving):
        monkeypatch.setattr(module, "perf_counter", lambda: next(clock))
    train(config_in(tmp_path, num_steps=2), stop=Noting())
    # The checkpoint of step 0, two steps, and theirs: what one took is left for the next.
    assert asked == [(0.0, 0.0), (None, 30.0), (30.0, 30.0), (30.0, 0.0)]
    asked.clear()
    train(config_in(tmp_path, num_steps=5), resume=True, stop=Noting())
    assert asked[:3] == [(30.0, 0.0), (30.0, 0.0), (0.0, 0.0)]
    assert asked[3:] == [(30.0, 30.0), (30.0, 0.0)]


def test_a_step_is_written_down_though_its_probe_is_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of a step without its line and its ledger would be a hole."""

    def probe(_self: HeldOutEvaluations, step: int) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail(f"the probe after step {step} went on")

    monkeypatch.setattr(HeldOutEvaluations, "probe", probe)
    folder = train(config_in(tmp_path), code=143)
    assert [line["step"] for line in folder.metrics()] == folder.ledger_steps() == [1]
    assert [step_of(path) for path in folder.checkpoints()] == [0, 1]


@pytest.mark.parametrize("phase", ["before", "after"])
def test_an_evaluation_is_abandoned_and_made_again(
    tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = HeldOutEvaluations.whole

    def interrupted(self: HeldOutEvaluations, now: str) -> None:
        if now == phase:
            os.kill(os.getpid(), signal.SIGTERM)
        whole(self, now)

    with monkeypatch.context() as patch:
        patch.setattr(HeldOutEvaluations, "whole", interrupted)
        stopped = train(config_in(tmp_path), code=143)
    steps = 0 if phase == "before" else 4
    assert (len(stopped.metrics()), stopped.evaluation(phase)) == (steps, [])
    assert [step_of(path) for path in stopped.checkpoints()] == ([0, 2, 4] if steps else [])
    resumed = train(config_in(tmp_path), resume=True)
    assert len(resumed.metrics()) == 4
    assert resumed.evaluation("before")
    assert resumed.evaluation("after")


def test_a_signal_while_the_last_report_is_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = TrainingRun._finish

    def interrupted(self: TrainingRun, ended_by: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        finish(self, ended_by)

    monkeypatch.setattr(TrainingRun, "_finish", interrupted)
    folder = train(config_in(tmp_path), code=0)
    assert folder.summary().stopped_by is None
    assert folder.report_path.is_file()


def test_what_fails_after_a_signal_is_told_and_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who ends the process may have ended the cluster: neither step nor checkpoint can be had."""

    def fail(*_: object) -> None:
        raise RuntimeError("the learner is gone")

    def end_all(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            patch.setattr(FakeRun, "save", fail)
            fail()

    with monkeypatch.context() as patch:
        folder = train(config_in(tmp_path), on_step=end_all, code=143)
    assert [step_of(path) for path in folder.checkpoints()] == [0, 2]
    shown = capsys.readouterr().out
    assert "SIGTERM: what was under way failed: the learner is gone" in shown
    assert "no checkpoint: the learner is gone; --resume goes on after step 2" in shown
    assert len(train(config_in(tmp_path), resume=True).metrics()) == 4
