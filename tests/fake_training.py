"""A training command over fakes: its run folder is real, its processes are not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from alphagrpo.cli import evaluate as evaluate_command
from alphagrpo.cli.console import Narrator
from alphagrpo.cli.stopping import StopSwitch
from alphagrpo.cli.training import TrainingRun
from alphagrpo.config import RunConfig
from alphagrpo.errors import LearnerLost
from alphagrpo.loop import StepReport, TrainingLoop
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.record.folder import RunFolder
from alphagrpo.types import WeightsManifest
from tests.fakes import (
    FakeDecomposer,
    FakeLearner,
    FakePool,
    make_config,
    make_prompts,
)
from tests.synthetic_run import RenderingPool, oracle_judges


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
    monkeypatch.setattr(evaluate_command, "judges_of", oracle_judges)


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
        self.pool = self.pictures = pool
        self.wait_for = runner.run
        self.probed: Path | None = None
        self.on_step: Callable[[int], None] = lambda step: None
        """In this thread, where a signal may raise; the loop has one of its own in a real run."""
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
        self.on_step(self.step_number + 1)
        return self.wait_for(self.loop.run_step())

    def show(self, metrics: Mapping[str, float]) -> None:
        self.shown = dict(metrics)

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
    code: int = 0,
    on_step: Callable[[int], None] = lambda step: None,
    on_save: Callable[[int], None] | None = None,
    step: int | None = None,
) -> RunFolder:
    stop = stop or StopSwitch(config.training.grace_s)
    point = RunFolder(config.folder).resume_point(step) if resume else None
    with asyncio.Runner() as runner, stop.armed():
        mesh_run = FakeRun(config, pool or LearningPool(), runner, on_save)
        mesh_run.on_step = on_step
        run = TrainingRun(config, mesh_run, Narrator(), stop, perf_counter(), resume=point)
        assert mesh_run.probed == config.output, "storage is tried before anything is trained"
        assert run.go() == code
    return RunFolder.open(config.folder)


def same_ledger(one: RunFolder, other: RunFolder) -> bool:
    keys = ("step", "prompt_id", "sample", "reward", "advantage")
    rows = [[[row[key] for key in keys] for row in folder.ledger()] for folder in (one, other)]
    return bool(rows[0]) and rows[0] == rows[1]
