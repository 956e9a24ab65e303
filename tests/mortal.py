"""A run that can be killed at any point: the real loop, folder and recorder over fakes.

The learner's weights are a hash over everything it was trained on, pictures are a hash over the
weights they are drawn with: one prompt that is lost or trained twice changes all that follows.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alphagrpo.config import RunConfig
from alphagrpo.errors import LearnerLost, ServiceUnavailable
from alphagrpo.judging.kept import KeptVerdicts
from alphagrpo.loop import TrainingLoop
from alphagrpo.ports import GroupReport, Sample
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.recorder import Recorder
from alphagrpo.record.verdicts import KEPT_VERDICTS
from alphagrpo.rewards.judging import judge_pictures
from alphagrpo.rewards.programs import configured_program
from alphagrpo.training import TrainingBlock, UpdateReport
from alphagrpo.types import QuestionSet, RolloutJob, Score, WeightsManifest
from tests.fakes import FakeDecomposer, FakeLearner, FakePool, FakeVerifier, make_prompts

Turn = tuple[str, int]
"""Prompt and visit."""
Reach = Callable[[str], None]
"""Told of each point that a run reaches; raises where the run is to die there."""


class Killed(BaseException):
    """The process is gone: nobody catches this."""


class Death:
    """Kills a run when it reaches a point for the n-th time; once."""

    def __init__(self, point: str, count: int, error: type[BaseException] = Killed) -> None:
        self.point, self.left, self.error = point, count, error

    def __call__(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                raise self.error(f"at {point}")


class ChainLearner(FakeLearner):
    """Its weights are a hash over all it was trained on."""

    def __init__(self, reach: Reach) -> None:
        super().__init__()
        self.reach = reach
        self.weights, self.trained = "0" * 64, list[Turn]()
        self.published: dict[int, str] = {}

    async def begin(self, attempt: int) -> None:
        self.reach("begin")
        await super().begin(attempt)

    async def accumulate(self, block: TrainingBlock) -> None:
        self.reach("accumulate")
        await super().accumulate(block)

    async def finish(self, denominator: float) -> UpdateReport:
        self.reach("before finish")
        report = await super().finish(denominator)
        groups = self.updates[-1].groups
        learnt = [(*group.reference, group.samples.advantages) for group in groups]
        self.weights = hashlib.sha256(f"{self.weights}{learnt}".encode()).hexdigest()
        self.trained += [group.reference for group in groups]
        self.reach("after finish")
        return report

    async def publish(self) -> WeightsManifest:
        self.reach("publish")
        manifest = await super().publish()
        self.published[manifest.version] = self.weights
        return manifest

    async def save(self, folder: str) -> None:
        state = {"version": self.version, "weights": self.weights, "trained": self.trained}
        self._file(folder).write_text(json.dumps(state), encoding="utf-8")

    async def load(self, folder: str) -> int:
        state = json.loads(self._file(folder).read_text(encoding="utf-8"))
        self.version, self.weights = state["version"] - 1, state["weights"]
        self.trained = [(prompt, visit) for prompt, visit in state["trained"]]
        return self.version


class PaintingPool(FakePool):
    """Pictures of 4 x 4 from the weights; no scores for ``unscored`` jobs."""

    def __init__(
        self,
        config: RunConfig,
        learner: ChainLearner,
        verifier: KeptVerdicts,
        unscored: Callable[[RolloutJob], bool],
    ) -> None:
        super().__init__(size=3)
        self._program = configured_program(config.reward)
        self._learner, self._verifier, self._unscored = learner, verifier, unscored

    async def roll_out(
        self, job: RolloutJob, questions: QuestionSet, *, keep_pictures: int = 0
    ) -> GroupReport:
        self._learner.reach("drawing")
        report = await super().roll_out(job, questions, keep_pictures=0)
        pictures = [self._picture(job, sample.id) for sample in report.samples]
        answers: list[Score | str] = ["ServiceUnavailable: down"] * len(pictures)
        if not self._unscored(job):
            answers = await judge_pictures(self._program, questions, pictures, self._verifier)
        pairs = zip(pictures, answers, strict=True)
        samples = tuple(_sample(*pair) for pair in pairs)
        return GroupReport(
            job=job,
            questions=questions,
            samples=samples,
            reference=(job.prompt.id, job.visit),
            runner=report.runner,
            timings=report.timings,
        )

    def _picture(self, job: RolloutJob, name: str) -> np.ndarray:
        weights = self._learner.published[job.policy_version]
        seed = hashlib.sha256(f"{weights}{name}".encode()).digest()
        return np.random.default_rng(list(seed)).integers(0, 256, (4, 4, 3), dtype=np.uint8)


def _sample(pixels: np.ndarray, answer: Score | str) -> Sample:
    name = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
    if isinstance(answer, str):
        return Sample(
            id="", thought="", score=None, reward=None, picture_hash=name, invalid_reason=answer
        )
    return Sample(id="", thought="", score=answer, reward=answer.value, picture_hash=name)


class Mortal:
    """One run's lives. ``fickle`` judges answer another way every time they are asked."""

    def __init__(
        self,
        config: RunConfig,
        *,
        num_prompts: int = 8,
        unanswerable: Sequence[str] = (),
        down_for: Sequence[str] = (),
        unscored: Callable[[RolloutJob], bool] = lambda job: False,
        fickle: bool = False,
    ) -> None:
        self.config, self.num_prompts = config, num_prompts
        self.unanswerable, self.down_for, self.unscored = unanswerable, down_for, unscored
        self.verifier = FakeVerifier((lambda *_: random.random()) if fickle else None)
        self.trained: list[Turn] = []
        self.weights = ""

    def live(self, steps: int, reach: Reach = lambda point: None) -> None:
        """From the newest checkpoint, or the start, to step ``steps`` or to a death."""
        asyncio.run(self._live(steps, reach))

    async def _live(self, steps: int, reach: Reach) -> None:
        checkpoint: Path | None = None
        if self.config.folder.exists():
            folder, checkpoint = RunFolder.resume(self.config)
        else:
            folder = RunFolder.create(self.config)
        learner = ChainLearner(reach)
        kept = KeptVerdicts(self.verifier, folder.path / KEPT_VERDICTS)
        loop = TrainingLoop(
            self.config,
            make_prompts(self.num_prompts),
            decomposer=FakeDecomposer(self.unanswerable, self.down_for),
            pool=PaintingPool(self.config, learner, kept, self.unscored),
            learner=learner,
        )
        await self._go_back(folder, loop, checkpoint)
        recorder = Recorder(folder, self.config)
        while loop.step < steps:
            try:
                report = await loop.run_step()
            except ServiceUnavailable:
                continue  # as the driver does: the step begins again
            except LearnerLost:
                await self._go_back(folder, loop, folder.newest_checkpoint())
                continue
            reach("before recording")
            recorder.record_step(report)
            reach("after recording")
            if report.step % self.config.training.checkpoint_every == 0:
                with folder.checkpoint(report.step) as path:
                    await learner.save(str(path))
                    reach("in a checkpoint")
                    (path / "loop.json").write_text(json.dumps(loop.state_dict()))
        await loop.close()
        self.trained, self.weights = learner.trained, learner.weights

    @staticmethod
    async def _go_back(folder: RunFolder, loop: TrainingLoop, checkpoint: Path | None) -> None:
        if checkpoint is None:
            assert loop.step == 0
            return
        await loop.close()
        state = json.loads((checkpoint / "loop.json").read_text())
        folder.keep_verdicts(state["step"])
        await loop.learner.load(str(checkpoint))
        loop.load_state_dict(state)

    def ledger(self) -> list[dict]:
        """Every row, but for the run's name."""
        rows = RunFolder.open(self.config.folder).ledger()
        return [{key: value for key, value in row.items() if key != "run"} for row in rows]
