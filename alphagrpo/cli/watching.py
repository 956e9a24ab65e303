"""A run's judge watch: asks the canary and the held-out judge, and tells of alarms."""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
from typing import TYPE_CHECKING, Any

from alphagrpo.errors import ServiceError
from alphagrpo.eval.alarms import TITLES, figures_of
from alphagrpo.eval.canary import ask_canary, canary_figures, fingerprint, load_canary
from alphagrpo.eval.watch import JudgeWatch, PictureWatch, canary_metrics, kept_samples
from alphagrpo.files import write_atomically
from alphagrpo.images import decode_image
from alphagrpo.rewards.judging import judge_picture
from alphagrpo.rewards.programs import configured_program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actors.run import MeshRun
    from alphagrpo.config import RunConfig
    from alphagrpo.loop import StepReport
    from alphagrpo.ports import GroupReport, Sample, Verifier
    from alphagrpo.record.folder import RunFolder

log = logging.getLogger(__name__)

FIRST_TIME = "watch.json"
"""In the run folder: the canary's answers of the first time, which later ones are compared with."""


class Watch:
    """Looks at a run's judge after each step; warns when an alarm begins, and when it ends."""

    def __init__(self, config: RunConfig, mesh_run: MeshRun, folder: RunFolder) -> None:
        self._config, self._settings = config, config.watch
        self._mesh_run, self._folder = mesh_run, folder
        self._pictures = PictureWatch(config.watch.repeat_steps)
        metrics = folder.metrics()
        self._watch = JudgeWatch(config.watch, metrics)
        self._canary = load_canary(config.watch.canary) if config.watch.canary else ()
        looks = [line["step"] for line in metrics if "watch/heldout_score" in line]
        self._looked = max(looks, default=-config.watch.every)
        self._step = max((line["step"] for line in metrics), default=0)
        self._verifiers: dict[str, Verifier] = {}
        self.stop_reason = ""
        """Why the run shall end, where an alarm shall end it."""

    def after_step(self, report: StepReport, extra: Mapping[str, float]) -> dict[str, float]:
        """What the step shows: figures and flags for its metrics, to which ``extra`` belongs."""
        if report.step <= self._step:
            # The learner was restored, and the steps since then come again.
            earlier = [line for line in self._folder.metrics() if line["step"] < report.step]
            self._watch = JudgeWatch(self._settings, earlier)
        self._step = report.step
        figures = self._pictures.look(report.groups)
        figures |= self._ask_canary(report.step)
        figures |= self._ask_heldout(report)
        everything = {**report.metrics, **extra, **figures}
        flags, changes = self._watch.observe(everything)
        figures |= flags
        for kind in changes.begun:
            said = f"{TITLES[kind]} ({figures_of(kind, {**everything, **flags})})"
            log.warning("alarm at step %d: %s", report.step, said)
            if self._settings.stop and not self.stop_reason:
                self.stop_reason = f"watch.stop: {said}"
        for kind in changes.ended:
            log.warning("alarm over at step %d: %s", report.step, TITLES[kind])
        self._mesh_run.show(figures)
        return figures

    def _ask_canary(self, step: int) -> dict[str, float]:
        """Every ``watch.every`` steps, and as soon as there is nothing to compare with."""
        if not self._canary:
            return {}
        first = self._first_time()
        if first is not None and step % self._settings.every:
            return {}
        verifier = self._verifier(self._config.services.verifier_app)
        answers, judge = self._mesh_run.wait_for(ask_canary(self._canary, verifier, step))
        of = sum(len(picture.questions) for picture in self._canary)
        if first is None:
            if 2 * len(answers) < of:
                return canary_metrics(None, of)
            first = answers
            self._remember(judge, answers)
        return canary_metrics(canary_figures(self._canary, answers, first), of)

    def _first_time(self) -> dict[str, float] | None:
        path = self._folder.path / FIRST_TIME
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            same = kept["canary"] == fingerprint(self._canary)
            return dict(kept["answers"]) if same else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, judge: str, answers: Mapping[str, float]) -> None:
        kept = {"canary": fingerprint(self._canary), "judge": judge, "answers": dict(answers)}
        write_atomically(self._folder.path / FIRST_TIME, json.dumps(kept, indent=1) + "\n")

    def _ask_heldout(self, report: StepReport) -> dict[str, float]:
        """The second verifier's score of kept pictures, and the reward's of the same pictures."""
        app, kept = self._settings.heldout_app, kept_samples(report.groups)
        scored = [(group, sample) for group, sample in kept if sample.score is not None]
        if app is None or not scored or report.step - self._looked < self._settings.every:
            return {}
        pairs = self._mesh_run.wait_for(self._scores(scored, self._verifier(app)))
        if not pairs:
            return {}
        self._looked = report.step
        ours, theirs = zip(*pairs, strict=True)
        return {
            "watch/heldout_reward": statistics.fmean(ours),
            "watch/heldout_score": statistics.fmean(theirs),
        }

    async def _scores(
        self, scored: list[tuple[GroupReport, Sample]], verifier: Verifier
    ) -> list[tuple[float, float]]:
        program = configured_program(self._config.reward)

        async def score(group: GroupReport, sample: Sample) -> tuple[float, float] | None:
            try:
                pixels = decode_image(sample.png or b"")
                theirs = await judge_picture(program, group.questions, pixels, verifier)
            except ServiceError:
                return None
            assert sample.score is not None, "only scored samples are asked about"
            return sample.score.value, theirs.value

        pairs = await asyncio.gather(*(score(*pair) for pair in scored))
        return [pair for pair in pairs if pair is not None]

    def _verifier(self, app: str) -> Verifier:
        if app not in self._verifiers:
            self._verifiers[app] = connect(self._config, app)
        return self._verifiers[app]


def connect(config: RunConfig, app: str) -> Verifier:
    """A client of the verifier's application ``app``, as patient as the run's own."""
    from services.client import connect_verifier

    options: dict[str, Any] = {**config.services.verifier_options(run=config.name), "app": app}
    return connect_verifier(**options)
