"""A run over fakes: the real loop, folder, recorder and report; no Ray and no model."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from alphagrpo.cli import evaluate as evaluate_command
from alphagrpo.cli import stopping, watching
from alphagrpo.cli import training as training_command
from alphagrpo.cli.again import Asked
from alphagrpo.cli.console import Narrator
from alphagrpo.cli.heldout import HeldOutEvaluations
from alphagrpo.cli.stopping import StopSwitch
from alphagrpo.cli.training import TrainingRun
from alphagrpo.config import RunConfig
from alphagrpo.errors import PolicyDataError
from alphagrpo.eval.canary import shapes_canary
from alphagrpo.eval.figures import share_all_right, summarise
from alphagrpo.eval.heldout import HeldOutJudges
from alphagrpo.eval.oracles import shapes_oracle
from alphagrpo.images import encode_png
from alphagrpo.loop import StepReport, TrainingLoop
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.record.folder import RunFolder, step_of
from alphagrpo.record.recorder import Recorder
from alphagrpo.report import render
from alphagrpo.report.render import write_report
from alphagrpo.report.view import Progress
from alphagrpo.rewards.programs import reward_program
from alphagrpo.types import Question, Verdict, WeightsManifest
from tests.fakes import (
    FakeDecomposer,
    FakeLearner,
    FakePool,
    FakeVerifier,
    make_config,
    make_prompts,
)
from tests.synthetic_run import OracleDecomposer, OracleVerifier, RenderingPool


class LearningPool(FakePool):
    """Draws held-out pictures better with every version of the weights."""

    def __init__(self, on_group: Any = None) -> None:
        super().__init__()
        self.on_group = on_group

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        return await RenderingPool(min(1.0, 0.2 + 0.2 * version)).draw(list(requests), version)

    async def roll_out(self, *args: Any, **options: Any) -> Any:
        if self.on_group is not None:
            self.on_group(len(self.jobs))
        return await super().roll_out(*args, **options)


@pytest.fixture(autouse=True)
def world_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    def judges_of(config: RunConfig, *, services: bool) -> HeldOutJudges:
        if not services:
            return HeldOutJudges(oracle=shapes_oracle)
        return HeldOutJudges(
            oracle=shapes_oracle,
            decomposer=OracleDecomposer(),
            verifier=OracleVerifier(),
            program=reward_program("dvreward"),
        )

    monkeypatch.setattr(evaluate_command, "judges_of", judges_of)


def config_in(
    output: Path, max_lag: int = 0, watch: dict[str, Any] | None = None, **training: Any
) -> RunConfig:
    return make_config(
        output=str(output),
        watch=watch or {},
        rollout={"max_lag": max_lag},
        data={"heldout": "shapes:heldout"},
        evaluation={"num_plain": 6, "num_thought": 6, "every": 2, "num_probe": 3},
        training={"num_steps": 4, "checkpoint_every": 2, "report_groups_every": 1, **training},
    )


class FakeRun:
    """The real loop over fakes, on an event loop in this thread."""

    def __init__(self, config: RunConfig, pool: FakePool, runner: asyncio.Runner) -> None:
        self.loop = TrainingLoop(
            config,
            make_prompts(5),
            decomposer=FakeDecomposer(),
            pool=pool,
            learner=FakeLearner(),
        )
        self.pool, self.wait_for = pool, runner.run
        self.probed: Path | None = None
        self.on_step: Callable[[int], None] = lambda step: None
        """In this thread, where a signal may raise; the loop has one of its own in a real run."""
        self.manifest()

    @property
    def step_number(self) -> int:
        return self.loop.step

    @property
    def set_aside(self) -> dict[str, str]:
        return self.loop.prompts.set_aside

    def step(self) -> StepReport:
        self.on_step(self.step_number + 1)
        return self.wait_for(self.loop.run_step())

    def show(self, metrics: Mapping[str, float]) -> None:
        self.shown = dict(metrics)

    def manifest(self) -> WeightsManifest:
        return self.wait_for(self.loop.ensure_published())

    def save(self, folder: Path) -> None:
        self.wait_for(self.loop.learner.save(str(folder)))
        (folder / "loop.json").write_text(json.dumps(self.loop.state_dict()))

    def check_storage(self, folder: Path) -> None:
        self.probed = folder

    def restore(self, folder: Path) -> None:
        self.wait_for(self.loop.learner.load(str(folder)))
        self.loop.load_state_dict(json.loads((folder / "loop.json").read_text()))


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    pool: FakePool | None = None,
    stop: StopSwitch | None = None,
    code: int = 0,
    on_step: Callable[[int], None] = lambda step: None,
) -> RunFolder:
    stop = stop or StopSwitch(config.training.grace_s)
    with asyncio.Runner() as runner, stop.armed():
        mesh_run = FakeRun(config, pool or LearningPool(), runner)
        mesh_run.on_step = on_step
        run = TrainingRun(config, mesh_run, Narrator(), stop, perf_counter(), resume=resume)
        assert mesh_run.probed == config.output, "storage is tried before anything is trained"
        assert run.go() == code
    return RunFolder.open(config.folder)


def test_a_run_with_lag_is_told_of_it_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_command, "precheck", lambda _config, resume: None)
    monkeypatch.setattr(training_command, "_with_mesh", lambda *_: 0)
    asked = Asked(Path("run.yaml"))
    for max_lag in (0, 1):
        config = make_config(output=str(tmp_path), rollout={"max_lag": max_lag})
        training_command.train(config, asked, resume=False, narrator=Narrator())
        told = "43 to 49 % of the image terms" in capsys.readouterr().out
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
    assert [path.name for path in folder.checkpoints()] == ["step-000002", "step-000004"]
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


def test_the_last_step_is_kept_whatever_its_number(tmp_path: Path) -> None:
    folder = train(config_in(tmp_path, num_steps=3, checkpoint_every=2))
    assert [step_of(path) for path in folder.checkpoints()] == [2, 3]


def at(number_of_step: int, number: int = signal.SIGTERM) -> Callable[[int], None]:
    """Sends this process a signal in one step."""

    def preempt(step: int) -> None:
        if step == number_of_step:
            os.kill(os.getpid(), number)

    return preempt


def same_ledger(one: RunFolder, other: RunFolder) -> bool:
    keys = ("step", "prompt_id", "sample", "reward", "advantage")
    rows = [[[row[key] for key in keys] for row in folder.ledger()] for folder in (one, other)]
    return bool(rows[0]) and rows[0] == rows[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_checkpoints_and_resume_goes_on(
    tmp_path: Path, number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path, checkpoint_every=4)
    stopped = train(config, on_step=at(2, number), code=code)
    assert [line["step"] for line in stopped.metrics()] == [1, 2]
    assert stopped.summary().stopped_by == signal.Signals(number).name
    assert [path.name for path in stopped.checkpoints()] == ["step-000002"]
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
    assert [path.name for path in folder.checkpoints()] == ["step-000002", "step-000003"]
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
    assert [path.name for path in folder.checkpoints()] == ["step-000002"]
    assert "SIGTERM: what was under way is abandoned" in capsys.readouterr().out


def test_without_any_grace_the_last_checkpoint_is_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path, grace_s=0.0)
    folder = train(config, on_step=at(4), code=143)
    assert [path.name for path in folder.checkpoints()] == ["step-000002"]
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
    monkeypatch.setattr(training_command, "perf_counter", lambda: next(clock))
    train(config_in(tmp_path, num_steps=2), stop=Noting())
    assert asked == [(None, 0.0), (30.0, 0.0), (0.0, 0.0)], "two steps, then a checkpoint"
    asked.clear()
    train(config_in(tmp_path, num_steps=5), resume=True, stop=Noting())
    assert asked[:3] == [(30.0, 0.0), (30.0, 0.0), (0.0, 0.0)]
    assert asked[3:] == [(30.0, 30.0), (30.0, 0.0)], "what it took is left for the next"


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
    assert [path.name for path in folder.checkpoints()] == ["step-000001"]


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
    assert [step_of(path) for path in stopped.checkpoints()] == [2, 4][: steps // 2]
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
    assert [path.name for path in folder.checkpoints()] == ["step-000002"]
    shown = capsys.readouterr().out
    assert "SIGTERM: what was under way failed: the learner is gone" in shown
    assert "no checkpoint: the learner is gone; --resume goes on after step 2" in shown
    assert len(train(config_in(tmp_path), resume=True).metrics()) == 4


def test_a_crash_between_checkpoints_takes_the_lost_steps_again(tmp_path: Path) -> None:
    config = config_in(tmp_path)

    def crash(jobs: int) -> None:
        if jobs == 10:  # in the fourth step
            raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError):
        train(config, pool=LearningPool(crash))
    folder = RunFolder.open(config.folder)
    assert [line["step"] for line in folder.metrics()] == [1, 2, 3]
    resumed = train(config, resume=True)
    assert [line["step"] for line in resumed.metrics()] == [1, 2, 3, 4]
    assert [row["step"] for row in resumed.ledger()] == sorted(r["step"] for r in resumed.ledger())


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


class DriftingVerifier(OracleVerifier):
    """Right at first; after ``good`` pictures it says yes to everything."""

    def __init__(self, good: int) -> None:
        self.good = good

    async def verify(self, pixels: np.ndarray, questions: list[Question]) -> tuple[Verdict, ...]:
        self.good -= 1
        verdicts = await super().verify(pixels, questions)
        return verdicts if self.good >= 0 else tuple(replace(v, p_yes=0.93) for v in verdicts)


def test_a_judge_that_drifts_is_an_alarm_in_metrics_log_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    verifier = DriftingVerifier(good=16)
    monkeypatch.setattr(watching, "connect", lambda _config, _app: verifier)
    config = config_in(tmp_path, watch={"canary": "shapes:8", "every": 2})
    folder = train(config)
    lines = folder.metrics()
    assert [line.get("watch/canary_accuracy", -1) > 0 for line in lines] == [
        True,
        True,
        False,
        True,
    ]
    assert [line["watch/alarm_drift"] for line in lines] == [0, 0, 0, 1]
    assert lines[0]["watch/canary_drift"] == lines[1]["watch/canary_drift"] == 0
    assert lines[3]["watch/canary_drift"] > 0.2
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert (
        [text for text in told if "alarm" in text]
        == [
            text for text in told if text.startswith("alarm at step 4: the judge drifts (accuracy ")
        ]
        != []
    )
    page = folder.report_path.read_text(encoding="utf-8")
    assert '<p class="alarm" role="alert"><b>Alarm</b> the judge drifts, since step 4 (acc' in page
    kept = json.loads((folder.path / "watch.json").read_text())
    questions = sum(len(picture.questions) for picture in shapes_canary(8))
    assert (kept["judge"], len(kept["answers"])) == ("fake@1", questions)


def test_an_alarm_ends_a_run_only_where_it_is_asked_to_and_resume_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = DriftingVerifier(good=8)
    monkeypatch.setattr(watching, "connect", lambda _config, _app: verifier)
    watch = {"canary": "shapes:8", "every": 2, "stop": True}
    config = config_in(tmp_path, watch=watch, num_steps=5, checkpoint_every=4)
    folder = train(config)
    assert folder.summary().steps == 2
    assert (folder.summary().stopped_by or "").startswith("watch.stop: the judge drifts")
    assert step_of(folder.checkpoints()[-1]) == 2
    assert train(config, resume=True).summary().steps == 5
    assert [line["watch/alarm_drift"] for line in folder.metrics()] == [0, 1, 1, 1, 1]


def test_without_a_canary_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(_config: RunConfig, _app: str) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(watching, "connect", connect)
    folder = train(config_in(tmp_path))
    assert not [key for line in folder.metrics() for key in line if "canary" in key]
    assert not (folder.path / "watch.json").exists()


def test_a_second_verifier_is_asked_about_kept_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class PicturingPool(LearningPool):
        async def roll_out(self, *args: Any, **options: Any) -> Any:
            report = await super().roll_out(*args, **options)
            png = encode_png(np.full((16, 16, 3), len(self.jobs), np.uint8))
            return replace(
                report, samples=tuple(replace(s, png=s.png and png) for s in report.samples)
            )

    def connect(_config: RunConfig, app: str) -> FakeVerifier:
        asked.append(app)
        return FakeVerifier(lambda _pixels, _question: 0.25)

    monkeypatch.setattr(watching, "connect", connect)
    config = config_in(tmp_path, watch={"heldout_app": "other", "every": 2}, report_groups_every=2)
    lines = train(config, pool=PicturingPool()).metrics()
    assert asked == ["other"]
    assert [line.get("watch/heldout_score") for line in lines] == [0.25, None, 0.25, None]
    assert 0 < lines[0]["watch/heldout_reward"] < 1
