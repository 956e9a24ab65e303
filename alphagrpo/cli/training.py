"""One run from its prechecks to its report: the composition root of training."""

from __future__ import annotations

import math
from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING, Any

from alphagrpo.cli.again import Asked, Ending, ending, refuse_used
from alphagrpo.cli.console import Narrator
from alphagrpo.cli.heldout import HeldOutEvaluations
from alphagrpo.cli.launch import Launch, precheck
from alphagrpo.cli.live_report import LiveReport
from alphagrpo.cli.memory import MemoryGauge
from alphagrpo.cli.outcome import tell_outcome
from alphagrpo.cli.ray_session import ray_session
from alphagrpo.cli.serving import deployed
from alphagrpo.cli.stopping import Stopped, StopSwitch
from alphagrpo.errors import DiskFull, LearnerLost
from alphagrpo.lag import announced_lag
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.manifest import step_of
from alphagrpo.record.recorder import Recorder
from alphagrpo.record.summary import trained_s

if TYPE_CHECKING:
    from actors.run import MeshRun
    from alphagrpo.config import RunConfig
    from alphagrpo.loop import StepReport
    from alphagrpo.record.checkpoints import ResumePoint
    from alphagrpo.record.summary import RunSummary
    from alphagrpo.report.view import Progress

DONE = 0
SAVE_ATTEMPTS = 3
"""How often in a row a learner may die while a checkpoint is written."""


def train(
    config: RunConfig, asked: Asked, *, resume: bool, narrator: Narrator, step: int | None = None
) -> int:
    """Train as ``config`` says; returns the exit code, 0 also where a signal ended the run.

    A run that is resumed goes on from its newest whole checkpoint, or from that of ``step``. A
    finished one only tells its outcome again, and how to go further, unless a step is asked for.
    """
    stop = StopSwitch()
    with stop.armed():
        try:
            narrator.say(f"checking {config.name}")
            if not resume:
                refuse_used(config, asked)
            elif step is None and (end := ending(RunFolder(config.folder), config)):
                return _tell_finished(RunFolder(config.folder), end, asked, narrator)
            launch = precheck(config, resume=resume, step=step)
            for warning in launch.resume.warnings() if launch.resume else ():
                narrator.say(f"warning: {warning}")
            if lag := announced_lag(config):
                narrator.say(lag)
            code = _with_mesh(config, launch, narrator, stop)
        except Stopped:
            narrator.say(f"stopped by {stop.reason} before training began; nothing was kept")
            return DONE
    if stop.pulled:
        narrator.say(f"continue it with {asked.again(resume=True)}")
    return code


def _tell_finished(folder: RunFolder, end: Ending, asked: Asked, narrator: Narrator) -> int:
    tell_outcome(narrator, folder.summary(), folder.report_path)
    further = asked.again(*end.further, resume=True)
    narrator.say(f"the run is finished: {end.reason}; train it further with {further}")
    return DONE


def _with_mesh(config: RunConfig, launch: Launch, narrator: Narrator, stop: StopSwitch) -> int:
    started = perf_counter()
    with ExitStack() as stack:
        with narrator.stage("starting Ray" if launch.address is None else "joining Ray"):
            session = stack.enter_context(
                ray_session(
                    launch.address,
                    num_cpus=launch.placement.whole_cpus,
                    store_bytes=launch.store_bytes,
                )
            )
        stop.arm()
        if session.dashboard:
            narrator.say(session.dashboard_line, dashboard=session.dashboard)
        from actors.cluster import check_room
        from actors.run import MeshRun

        check_room(config)
        if launch.serve_file is not None:
            stack.enter_context(deployed(launch.serve_file, narrator, session))
        with narrator.stage("loading policy"):
            mesh_run = stack.enter_context(MeshRun(config, tell=narrator.say))
        run = TrainingRun(config, mesh_run, narrator, stop, started, resume=launch.resume)
        return run.go()


class TrainingRun:
    """Evaluation before, steps, evaluation after, report; everything on disk as it happens."""

    def __init__(
        self,
        config: RunConfig,
        mesh_run: MeshRun,
        narrator: Narrator,
        stop: StopSwitch,
        started: float,
        *,
        resume: ResumePoint | None,
    ) -> None:
        self._config, self._mesh_run = config, mesh_run
        self._narrator, self._stop = narrator, stop
        self._started = started
        self._gauge = MemoryGauge()
        mesh_run.check_storage(config.output)
        if resume:
            recorded = RunFolder(config.folder).ledger_steps()
            self._folder, checkpoint = RunFolder.resume(config, resume)
            if checkpoint is not None:
                older = [path for path in self._folder.checkpoints() if path != checkpoint]
                mesh_run.restore(checkpoint, older)
            later = sum(step > resume.step for step in recorded)
            dropped = f"; {later} recorded after it are dropped and taken again" if later else ""
            narrator.say(f"resuming after step {mesh_run.step_number}{dropped}")
        else:
            self._folder = RunFolder.create(config)
        self._heldout = HeldOutEvaluations(config, mesh_run, self._folder, narrator)
        self._report = LiveReport(self._folder, narrator)
        self._recorder = Recorder(self._folder, config)
        self._earlier_s = self._recorder.earlier_wall_s()
        self._training_s = trained_s(self._folder.metrics())
        self._limit_s = 60 * (config.training.max_minutes or math.inf)
        self._lost_saves = 0

    def go(self) -> int:
        """The whole run; returns the exit code."""
        self._gauge.sample()
        ended_by = ""
        try:
            if self._mesh_run.step_number == 0 and not self._folder.evaluation("before"):
                self._heldout.whole("before")
            if self._mesh_run.step_number == 0:
                self._save_start()
            self._begin_report()
            ended_by = self._steps()
            if not self._stop.pulled:
                self._heldout.whole("after")
        except Stopped:
            self._narrator.say(f"{self._stop.reason}: what was under way is abandoned")
        except DiskFull:
            raise  # there is no room for a report either
        except Exception as error:
            self._report.write(self._summary(f"{type(error).__name__}: {error}"), None)
            raise
        if self._stop.pulled:
            ended_by = self._stop.reason
            self._checkpoint_if_whole()
        self._finish(ended_by)
        return DONE

    def _steps(self) -> str:
        """Train until the steps or the minutes are spent; what ended it, empty for the steps."""
        settings, mesh_run = self._config.training, self._mesh_run
        while mesh_run.step_number < settings.num_steps:
            if self._training_s >= self._limit_s:
                return f"training.max_minutes ({settings.max_minutes:g})"
            begun = perf_counter()
            with self._stop.step():
                report = mesh_run.step()
            took = perf_counter() - begun
            self._training_s += took
            self._after_step(report, took)
            if self._stop.pulled:
                return self._stop.reason
        return ""

    def _after_step(self, report: StepReport, took: float) -> None:
        settings = self._config.training
        last = report.step >= settings.num_steps or self._training_s >= self._limit_s
        extra = {} if last or self._stop.pulled else self._heldout.probe(report.step)
        with self._stop.step():
            self._recorder.record_step(report, {"time/wall_s": took, **extra})
            self._narrator.step(
                step_figures(report, settings.num_steps, self._heldout.share, self._left_s())
            )
            if report.step % settings.checkpoint_every == 0 or last:
                self._checkpoint()
            if report.step % settings.report_every == 0:
                self._report.write(self._summary(None), self._progress())
        if report.step == 1 or last:
            self._gauge.sample()

    def _begin_report(self) -> None:
        """The page before the first step, so that there is something to watch."""
        every = self._config.training.report_every
        if self._report.write(self._summary(None), self._progress()):
            steps = "step" if every == 1 else f"{every} steps"
            path = self._folder.report_path
            self._narrator.say(f"the report, written again every {steps}: {path}")

    def _progress(self) -> Progress:
        from alphagrpo.report.view import Progress

        step, of = self._mesh_run.step_number, self._config.training.num_steps
        return Progress(step=step, of=of, left_s=self._left_s() if step else None)

    def _left_s(self) -> float:
        """Seconds of training that are left at the pace of the steps so far, of which one is."""
        step, of = self._mesh_run.step_number, self._config.training.num_steps
        return min(self._training_s / step * (of - step), self._limit_s - self._training_s)

    def _save_start(self) -> None:
        """A checkpoint of step 0: a learner that dies before the next one is put back to it."""
        if self._folder.newest_checkpoint() is None:
            self._mesh_run.manifest()
            with self._stop.step():
                self._checkpoint()

    def _checkpoint(self) -> None:
        """Everything a resumed run needs, complete or not there.

        Where the learner dies meanwhile the run is put back to its newest whole checkpoint, from
        which its steps are taken again; a learner that dies each time ends the run.
        """
        step = self._mesh_run.step_number
        try:
            with self._folder.checkpoint(step) as path:
                self._mesh_run.save(path)
        except LearnerLost as error:
            self._lost_saves += 1
            if self._lost_saves == SAVE_ATTEMPTS:
                raise
            if self._stop.pulled:
                self._narrator.say(f"step {step} has no checkpoint: {error}")
            else:
                self._go_back(step, error)
            return
        self._lost_saves = 0
        self._folder.prune_checkpoints(self._config.training.keep_checkpoints)
        self._folder.write_summary(self._summary(None))

    def _go_back(self, step: int, error: LearnerLost) -> None:
        self._mesh_run.revive(error)
        back = self._mesh_run.step_number
        self._narrator.say(
            f"the learner was lost while the checkpoint of step {step} was written; the run goes "
            f"on after step {back}, and what was recorded after it is dropped"
        )
        self._folder.rewind(back)
        self._training_s = trained_s(self._folder.metrics())
        if back == 0:
            self._save_start()

    def _checkpoint_if_whole(self) -> None:
        """Not after a step that was cut short: the last checkpoint is what can be trusted."""
        newest = self._folder.newest_checkpoint()
        if self._stop.step_abandoned:
            self._narrator.say("the step was abandoned; --resume takes it again")
        elif newest is None or step_of(newest) < self._mesh_run.step_number:
            self._checkpoint()

    def _summary(self, ended_by: str | None) -> RunSummary:
        return self._recorder.summary(
            wall_s=self._earlier_s + perf_counter() - self._started,
            weights=self._mesh_run.loop.manifest,
            set_aside=self._mesh_run.set_aside,
            memory=self._gauge.figures(),
            stopped_by=ended_by,
        )

    def _finish(self, ended_by: str) -> None:
        self._gauge.sample()
        summary = self._summary(ended_by or None)
        self._report.write(summary, None)
        tell_outcome(self._narrator, summary, self._folder.report_path)


def step_figures(
    report: StepReport, num_steps: int, heldout: float | None, left_s: float
) -> dict[str, Any]:
    """What a step's line shows."""
    ratios = [report.metrics.get(f"{part}/max_abs_log_ratio") for part in ("image", "text")]
    known = [ratio for ratio in ratios if ratio is not None]
    return {
        "step": report.step,
        "of": num_steps,
        "reward": report.metrics.get("reward/mean"),
        "heldout": heldout,
        "samples_per_s": report.metrics.get("samples/per_second"),
        "log_ratio": max(known) if known else None,
        "left_s": left_s,
    }
