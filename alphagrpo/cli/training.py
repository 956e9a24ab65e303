"""One run from its prechecks to its report: the composition root of training."""

from __future__ import annotations

import math
from collections import deque
from contextlib import ExitStack
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from alphagrpo.cli.again import Asked, Ending, ending, refuse_used
from alphagrpo.cli.console import Narrator
from alphagrpo.cli.heldout import HeldOutEvaluations
from alphagrpo.cli.launch import Launch, precheck
from alphagrpo.cli.live_report import LiveReport
from alphagrpo.cli.memory import MemoryGauge
from alphagrpo.cli.outcome import step_figures, tell_outcome
from alphagrpo.cli.ray_session import ray_session
from alphagrpo.cli.saving import Saving
from alphagrpo.cli.serving import deployed
from alphagrpo.cli.stopping import Stopped, StopSwitch
from alphagrpo.cli.watching import Watch
from alphagrpo.errors import DiskFull
from alphagrpo.lag import announced_lag
from alphagrpo.record.folder import RunFolder
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
STEPS_KNOWN = 5
"""Steps whose median says how long the next one takes."""


def train(
    config: RunConfig, asked: Asked, *, resume: bool, narrator: Narrator, step: int | None = None
) -> int:
    """Train as ``config`` says; returns the exit code: 0 of a run that is finished, 143 or 130 of
    one that SIGTERM or SIGINT ended before, which ``--resume`` continues.

    A run that is resumed goes on from its newest whole checkpoint, or from that of ``step``. A
    finished one only tells its outcome again, and how to go further, unless a step is asked for.
    """
    stop = StopSwitch(config.training.grace_s, narrator.say)
    with stop.armed():
        try:
            with stop.abandonable():
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
            narrator.say(f"stopped by {stop.reason} before training began; nothing is lost")
            return stop.exit_code
    if code != DONE:
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
        with stop.abandonable():
            mesh_run = _start_mesh(config, launch, narrator, stack)
        run = TrainingRun(config, mesh_run, narrator, stop, started, resume=launch.resume)
        return run.go()


def _start_mesh(config: RunConfig, launch: Launch, narrator: Narrator, stack: ExitStack) -> MeshRun:
    """Ray, the services, the actors; what was started is on ``stack``."""
    with narrator.stage("starting Ray" if launch.address is None else "joining Ray"):
        session = stack.enter_context(
            ray_session(
                launch.address,
                num_cpus=launch.placement.whole_cpus,
                store_bytes=launch.store_bytes,
            )
        )
    if session.dashboard:
        narrator.say(session.dashboard_line, dashboard=session.dashboard)
    from actors.cluster import check_room
    from actors.run import MeshRun

    check_room(config)
    if launch.serve_file is not None:
        stack.enter_context(deployed(launch.serve_file, narrator, session))
    with narrator.stage("loading policy"):
        return stack.enter_context(MeshRun(config, tell=narrator.say))


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
        self._watch = Watch(config, mesh_run, self._folder)
        self._report = LiveReport(self._folder, narrator)
        self._recorder = Recorder(self._folder, config)
        self._earlier_s = self._recorder.earlier_wall_s()
        self._training_s = trained_s(self._folder.metrics())
        self._limit_s = 60 * (config.training.max_minutes or math.inf)
        self._step_seconds = deque(
            (trained_s([line]) for line in self._folder.metrics()[-STEPS_KNOWN:]), STEPS_KNOWN
        )
        self._saving = Saving(
            self._folder,
            mesh_run,
            stop,
            narrator,
            keep=config.training.keep_checkpoints,
            summary=lambda: self._summary(None),
        )

    def go(self) -> int:
        """The whole run; returns the exit code."""
        self._gauge.sample()
        ended_by, finished = "", False
        try:
            if self._mesh_run.step_number == 0 and not self._folder.evaluation("before"):
                with self._stop.abandonable():
                    self._heldout.whole("before")
            if self._mesh_run.step_number == 0:
                self._saving.start()
            self._begin_report()
            ended_by = self._steps()
            if not self._stop.pulled:
                with self._stop.abandonable():
                    self._heldout.whole("after")
                finished = True
        except Stopped:
            self._narrator.say(f"{self._stop.reason}: what was under way is abandoned")
        except DiskFull:
            raise  # there is no room for a report either
        except Exception as error:
            if not self._stop.pulled:
                self._report.write(self._summary(f"{type(error).__name__}: {error}"), None)
                raise
            # Who ends this process may have ended others that it needs.
            self._narrator.say(f"{self._stop.reason}: what was under way failed: {error}")
        if not finished:
            ended_by = self._stop.reason
            self._saving.keep_what_is_whole()
        self._finish(ended_by)
        return DONE if finished else self._stop.exit_code

    def _steps(self) -> str:
        """Train until a signal, or until steps or minutes are spent; says why, if not the steps."""
        settings, mesh_run = self._config.training, self._mesh_run
        while mesh_run.step_number < settings.num_steps and not self._stop.pulled:
            if self._training_s >= self._limit_s:
                return f"training.max_minutes ({settings.max_minutes:g})"
            begun = perf_counter()
            expected_s = median(self._step_seconds) if self._step_seconds else None
            with self._stop.step(expected_s, reserve_s=self._saving.took_s):
                report = self._step()
            took = perf_counter() - begun
            self._training_s += took
            self._step_seconds.append(took)
            self._after_step(report, took)
            if reason := self._watch.stop_reason:
                self._saving.keep_what_is_whole()
                return reason
        return ""

    def _step(self) -> StepReport:
        """One step; of one that ends the run the ledger has what is known of it."""
        try:
            return self._mesh_run.step()
        except BaseException:
            if (failed := self._mesh_run.loop.failed) is not None:
                self._keep_failed(failed)
            raise

    def _keep_failed(self, report: StepReport) -> None:
        try:
            self._recorder.record_failed(report)
        except OSError as error:
            # What ended the step is what is to be told; a full disk may be both.
            self._narrator.say(f"the ledger of step {report.step} could not be written: {error}")

    def _after_step(self, report: StepReport, took: float) -> None:
        """Write the step down, whatever comes; look at pictures and save where it is time to."""
        settings = self._config.training
        last = report.step >= settings.num_steps or self._training_s >= self._limit_s
        extra: dict[str, float] = {}
        try:
            if not self._stop.pulled:
                with self._stop.abandonable():
                    extra = {} if last else self._heldout.probe(report.step)
                    extra |= self._watch.after_step(report, extra)
        finally:
            times = {"time/wall_s": took, **self._saving.spent()}
            self._recorder.record_step(report, {**times, **extra})
            self._saving.recorded = report.step
            self._narrator.step(
                step_figures(report, settings.num_steps, self._heldout.share, self._left_s())
            )
        if report.step % settings.checkpoint_every == 0 or last:
            self._saving.save()
            if self._mesh_run.step_number < report.step:  # the learner was lost meanwhile
                self._training_s = trained_s(self._folder.metrics())
        if report.step % settings.report_every == 0 and not self._stop.pulled:
            with self._stop.abandonable():
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
