"""What a run goes back to when its learner is lost: the newest checkpoint that is whole."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.recovery import Recovery
from actors.run import MeshRun
from actors.saved import LEARNER, read_state, write_state
from alphagrpo.errors import CheckpointError, LearnerLost
from alphagrpo.files import read_state as read_json
from alphagrpo.files import write_state as write_json

LOST = LearnerLost("a process of it died")


class Learner:
    """Keeps a number on disk in place of weights."""

    def __init__(self) -> None:
        self.weights = 0

    async def save(self, folder: str) -> None:
        content = {"format": 2, "step": self.weights, "weights": self.weights}
        write_json(state_of(folder), content)

    async def load(self, folder: str) -> int:
        path = state_of(folder)
        self.weights = read_json(path, format_number=2, owner="a learner's checkpoint")["weights"]
        return self.weights


def state_of(folder: str) -> Path:
    return Path(folder, "learner.json")


class Loop:
    """As much of a training loop as checkpoints need."""

    def __init__(self) -> None:
        self.step = 0

    async def close(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "position": 2 * self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]


class Run(MeshRun):
    """A run without Ray, whose weights are the number of its steps."""

    def __init__(self) -> None:
        learner, self.loop = Learner(), Loop()
        self.config = SimpleNamespace(model_dump=lambda mode: {}, folder=Path("nothing recorded"))
        self.parts = (SimpleNamespace(to_json=dict), SimpleNamespace(to_json=dict))
        self.mesh = SimpleNamespace(learner=learner, restart_learner=self.restarted)
        self._recovery = Recovery(self.config, self.mesh, self.loop)

    async def restarted(self) -> None:
        self.mesh.learner.weights = 0

    def wait_for(self, work: Any) -> Any:
        return asyncio.run(work)

    def train_to(self, step: int, folder: Path | None = None) -> None:
        self.loop.step = self.mesh.learner.weights = step
        if folder is not None:
            self.save(folder)

    @property
    def at(self) -> tuple[int, int]:
        return self.loop.step, self.mesh.learner.weights


def test_the_newest_whole_one_is_taken_and_damaged_ones_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, folders = Run(), [tmp_path / name for name in ("two", "four", "six", "eight")]
    for step, folder in zip((2, 4, 6, 8), folders, strict=True):
        run.train_to(step, folder)
    run.train_to(9)
    run.revive(LOST)
    assert run.at == (8, 8)
    shutil.rmtree(folders[3])  # pruned, of which nothing is said
    (folders[2] / "mesh.json").write_text("{")
    state = folders[1] / LEARNER / "learner.json"
    state.write_text(state.read_text().replace('"weights": 4', '"weights": 3'))
    run.train_to(9)
    run.revive(LOST)
    assert run.at == (2, 2)
    assert caplog.text.count("is passed over") == 2
    shutil.rmtree(folders[0] / LEARNER)
    for _ in range(2):  # there and damaged, then gone: not silently from the start again
        with pytest.raises(LearnerLost, match="None of the 4 checkpoints"):
            run.revive(LOST)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def test_before_the_first_checkpoint_a_run_goes_back_to_its_start() -> None:
    run = Run()
    run.train_to(3)
    run.revive(LOST)
    assert run.at == (0, 0)


def test_a_restored_run_knows_the_older_ones_too(tmp_path: Path) -> None:
    first = Run()
    for step in (2, 4):
        first.train_to(step, tmp_path / str(step))
    run = Run()
    run.restore(tmp_path / "4", [tmp_path / "2"])
    (tmp_path / "4" / "mesh.json").unlink()
    run.revive(LOST)
    assert run.at == (2, 2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loop": None}, "must have the objects loop and config"),
        ({"loop": {"step": -5, "position": 1}}, "step must be a whole number from 0 on, got -5"),
        ({"loop": {"step": 1, "position": "1"}}, "position must be a whole number .* got '1'"),
        ({"config": "x"}, "must have the objects loop and config"),
    ],
)
def test_a_state_that_cannot_be_is_refused(tmp_path: Path, changes: Any, says: str) -> None:
    run = Run()
    run.train_to(1, tmp_path / "one")
    content = {"loop": {"step": 1, "position": 2}, "config": {}}
    write_state(tmp_path / "one", content)
    assert read_state(tmp_path / "one")["loop"] == content["loop"]
    write_state(tmp_path / "one", content | changes)
    with pytest.raises(CheckpointError, match=says):
        read_state(tmp_path / "one")


def test_storage_that_the_learner_does_not_share_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the learner's node must see"):
        write_state(tmp_path, {})


def test_learner_and_loop_stand_at_the_same_step_in_a_checkpoint(tmp_path: Path) -> None:
    run = Run()
    run.train_to(3, tmp_path / "whole")
    run.mesh.learner.weights = 4  # its optimizer step was taken, and the loop's half was not
    with pytest.raises(CheckpointError, match="the same step in a checkpoint, got 4 and 3"):
        run.save(tmp_path / "torn")
    assert not (tmp_path / "torn" / "mesh.json").exists()
