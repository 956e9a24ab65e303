"""A run over fakes: the real loop, folder, recorder and report; no Ray and no model."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import pytest

from alphagrpo.cli import evaluate as evaluate_command
from alphagrpo.cli import training as training_command
from alphagrpo.cli.again import Asked
from alphagrpo.cli.console import Narrator
from alphagrpo.cli.stopping import Stopped, StopSwitch
from alphagrpo.cli.training import TrainingRun
from alphagrpo.config import RunConfig
from alphagrpo.errors import ConfigError, DiskFull, LearnerLost
from alphagrpo.eval.figures import share_all_right, summarise
from alphagrpo.eval.heldout import HeldOutJudges
from alphagrpo.eval.oracles import shapes_oracle
from alphagrpo.loop import StepReport, TrainingLoop
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.manifest import step_of
from alphagrpo.report import render
from alphagrpo.report.render import write_report
from alphagrpo.report.view import Progress
from alphagrpo.rewards.programs import reward_program
from alphagrpo.types import WeightsManifest
from tests.fakes import FakeDecomposer, FakeLearner, FakePool, make_config, make_prompts
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


def config_in(output: Path, max_lag: int = 0, **training: Any) -> RunConfig:
    return make_config(
        output=str(output),
        rollout={"max_lag": max_lag},
        data={"heldout": "shapes:heldout"},
        evaluation={"num_plain": 6, "num_thought": 6, "every": 2, "num_probe": 3},
        training={"num_steps": 4, "checkpoint_every": 2, "report_groups_every": 1, **training},
    )


class FakeRun:
    """The real loop over fakes, on an event loop in this thread."""

    def __init__(
        self,
        config: RunConfig,
        pool: FakePool,
        runner: asyncio.Runner,
        on_save: Callable[[int], None] | None = None,
    ) -> None:
        self.loop = TrainingLoop(
            config,
            make_prompts(5),
            decomposer=FakeDecomposer(),
            pool=pool,
            learner=FakeLearner(),
        )
        self.pool, self.wait_for = pool, runner.run
        self.probed: Path | None = None
        self.start, self.saved, self.revived = self.loop.state_dict(), list[Path](), 0
        self.on_save = on_save or (lambda step: None)
        self.manifest()

    @property
    def step_number(self) -> int:
        return self.loop.step

    @property
    def set_aside(self) -> dict[str, str]:
        return self.loop.prompts.set_aside

    def step(self) -> StepReport:
        return self.wait_for(self.loop.run_step())

    def manifest(self) -> WeightsManifest:
        return self.wait_for(self.loop.ensure_published())

    def save(self, folder: Path) -> None:
        self.on_save(self.step_number)
        self.wait_for(self.loop.learner.save(str(folder)))
        self.saved.append(folder)
        (folder / "loop.json").write_text(json.dumps(self.loop.state_dict()))

    def check_storage(self, folder: Path) -> None:
        self.probed = folder

    def revive(self, error: LearnerLost) -> None:
        self.revived += 1
        if self.saved:
            self.restore(self.saved[-1])
        else:
            self.loop.load_state_dict(self.start)

    def restore(self, folder: Path, older: Sequence[Path] = ()) -> None:
        self.wait_for(self.loop.learner.load(str(folder)))
        self.loop.load_state_dict(json.loads((folder / "loop.json").read_text()))


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    pool: FakePool | None = None,
    stop: StopSwitch | None = None,
    on_save: Callable[[int], None] | None = None,
    step: int | None = None,
) -> RunFolder:
    stop = stop or StopSwitch()
    point = RunFolder(config.folder).resume_point(step) if resume else None
    with asyncio.Runner() as runner, stop.armed():
        mesh_run = FakeRun(config, pool or LearningPool(), runner, on_save)
        run = TrainingRun(config, mesh_run, Narrator(), stop, perf_counter(), resume=point)
        assert mesh_run.probed == config.output, "storage is tried before anything is trained"
        assert run.go() == 0
    return RunFolder.open(config.folder)


def test_a_run_with_lag_is_told_of_it_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_command, "precheck", lambda *_, **__: SimpleNamespace(resume=None))
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


def test_the_last_step_is_kept_whatever_its_number(tmp_path: Path) -> None:
    folder = train(config_in(tmp_path, num_steps=3, checkpoint_every=2))
    assert [step_of(path) for path in folder.checkpoints()] == [0, 2, 3]


def test_sigterm_finishes_the_step_checkpoints_and_resume_goes_on(tmp_path: Path) -> None:
    config = config_in(tmp_path)

    def preempt(jobs: int) -> None:
        if jobs == 4:  # in the second step
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(config, pool=LearningPool(preempt))
    assert [line["step"] for line in stopped.metrics()] == [1, 2]
    assert stopped.summary().stopped_by == "SIGTERM"
    assert [step_of(path) for path in stopped.checkpoints()] == [0, 2]
    assert not stopped.evaluation("after")
    before = stopped.evaluation("before")

    resumed = train(config, resume=True)
    whole = train(config_in(tmp_path / "other"))
    assert [line["step"] for line in resumed.metrics()] == [1, 2, 3, 4]
    assert resumed.evaluation("before") == before
    assert resumed.summary().stopped_by is None
    same = ("prompt_id", "sample", "reward", "advantage")
    assert [[row[k] for k in same] for row in resumed.ledger()] == [
        [row[k] for k in same] for row in whole.ledger()
    ]


def test_a_second_signal_abandons_the_step_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    def insist(jobs: int) -> None:
        if jobs >= 7:  # in the third step
            os.kill(os.getpid(), signal.SIGTERM)

    folder = train(config_in(tmp_path), pool=LearningPool(insist))
    assert [step_of(path) for path in folder.checkpoints()] == [0, 2]
    assert folder.summary().steps == 2


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


class DyingLearner:
    """Loses the learner at the saves whose steps are named, each as often as it is named."""

    def __init__(self, *steps: int) -> None:
        self.steps = list(steps)

    def __call__(self, step: int) -> None:
        if step in self.steps:
            self.steps.remove(step)
            raise LearnerLost("a process of it died")


@pytest.mark.parametrize(("dies_at", "back"), [((4,), 2), ((2,), 0), ((0,), 0), ((4, 4), 2)])
def test_a_learner_that_dies_while_a_checkpoint_is_written_is_put_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dies_at: tuple[int, ...], back: int
) -> None:
    folder = train(config_in(tmp_path), on_save=DyingLearner(*dies_at))
    assert [line["step"] for line in folder.metrics()] == [1, 2, 3, 4]
    assert [step_of(path) for path in folder.checkpoints()] == [0, 2, 4]
    assert {path.name for path in folder.checkpoints_path.iterdir()} == {
        "step-000000", "step-000002", "step-000004"
    }  # fmt: skip
    told = f"checkpoint of step {dies_at[0]} was written; the run goes on after step {back}"
    assert capsys.readouterr().out.count(told) == len(dies_at)
    same = ("prompt_id", "sample", "reward", "advantage", "step")
    undisturbed = train(config_in(tmp_path / "other"))
    assert [[row[k] for k in same] for row in folder.ledger()] == [
        [row[k] for k in same] for row in undisturbed.ledger()
    ]


def test_a_learner_that_dies_at_every_checkpoint_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(LearnerLost):
        train(config_in(tmp_path), on_save=DyingLearner(2, 2, 2))


def test_a_full_disk_ends_a_run_without_a_word_more_and_the_last_checkpoint_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(step: int) -> None:
        if step == 4:
            raise DiskFull("writing x needs 9 bytes, the disk has 0")

    with pytest.raises(DiskFull):
        train(config_in(tmp_path), on_save=full)
    folder = RunFolder.open(config_in(tmp_path).folder)
    assert [step_of(path) for path in folder.checkpoints()] == [0, 2]
    assert [path.name for path in folder.checkpoints_path.glob("*4*")] == []
    assert "could not be written" not in capsys.readouterr().out


def test_a_chosen_step_is_resumed_and_what_came_after_it_is_dropped_or_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path)
    first = train(config).ledger()
    with pytest.raises(ConfigError, match=r"got 3; it has those of steps 0, 2, 4"):
        train(config, resume=True, step=3)
    folder = train(config, resume=True, step=2)
    assert "resuming after step 2; 2 recorded after it are dropped" in capsys.readouterr().out
    assert [line["step"] for line in folder.metrics()] == [1, 2, 3, 4]
    assert [row["reward"] for row in folder.ledger()] == [row["reward"] for row in first]
    assert [path.name for path in (folder.checkpoints_path / "later").iterdir()] == ["step-000004"]
    assert [step_of(path) for path in folder.checkpoints()] == [0, 2, 4]


def test_outside_a_step_one_signal_is_enough() -> None:
    # A background job of a shell ignores SIGINT from its start: compare with what was there.
    before = signal.getsignal(signal.SIGINT)
    stop = StopSwitch()
    with stop.armed():
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.pulled
        assert not stop.step_abandoned
    assert signal.getsignal(signal.SIGINT) is before
