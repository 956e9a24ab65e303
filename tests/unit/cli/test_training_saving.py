"""A run's checkpoints, and what becomes of it where one cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphagrpo.errors import ConfigError, DiskFull, LearnerLost
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.manifest import step_of
from tests.fake_training import LearningPool, config_in, train, world_judges

__all__ = ["world_judges"]


class DyingLearner:
    """Loses the learner at the saves whose steps are named, each as often as it is named."""

    def __init__(self, *steps: int) -> None:
        self.steps = list(steps)

    def __call__(self, step: int) -> None:
        if step in self.steps:
            self.steps.remove(step)
            raise LearnerLost("a process of it died")


def test_the_last_step_is_kept_whatever_its_number(tmp_path: Path) -> None:
    folder = train(config_in(tmp_path, num_steps=3, checkpoint_every=2))
    assert [step_of(path) for path in folder.checkpoints()] == [0, 2, 3]


def test_what_a_checkpoint_took_is_in_the_line_of_the_step_after(tmp_path: Path) -> None:
    folder = train(config_in(tmp_path, num_steps=3, checkpoint_every=2))
    seconds = {line["step"]: line.get("time/checkpoint_s", 0.0) for line in folder.metrics()}
    assert seconds[1] > 0, "the checkpoint of step 0"
    assert seconds[2] == 0
    assert seconds[3] > 0


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
