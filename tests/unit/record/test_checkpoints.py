"""Which checkpoint a run goes on from, and what becomes of the others, damaged ones above all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alphagrpo.digests import digest_file
from alphagrpo.errors import CheckpointError, ConfigError
from alphagrpo.files import write_state
from alphagrpo.record.checkpoints import Checkpoints
from alphagrpo.record.manifest import check_checkpoint, problem, step_of

TENSORS = b"t" * 200_000
DAMAGES = {
    "a bit is flipped": lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
    "64 KiB of zeros": lambda data: data[:4096] + bytes(65536) + data[4096 + 65536 :],
    "it is cut short": lambda data: data[:-8],
    "it is empty": lambda data: b"",
}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """Whole ones of the steps 0, 2 and 4, with a learner that names its own files."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (0, 2, 4):
        write(checkpoints, step)
    return checkpoints


def write(checkpoints: Checkpoints, step: int) -> None:
    with checkpoints.writing(step) as path:
        learner = path / "learner"
        learner.mkdir()
        (learner / "learner.safetensors").write_bytes(TENSORS)
        named = {"learner.safetensors": digest_file(learner / "learner.safetensors").to_json()}
        write_state(learner / "learner.json", {"format": 2, "step": step, "files": named})
        write_state(path / "mesh.json", {"format": 2, "loop": {"step": step}})


def steps(checkpoints: Checkpoints) -> list[int]:
    return [step_of(path) for path in checkpoints.complete()]


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_whole_checkpoint_names_every_file_and_is_proved(checkpoints: Checkpoints) -> None:
    newest = checkpoints.complete()[-1]
    manifest = json.loads((newest / "complete.json").read_text())
    assert manifest["step"] == 4
    assert set(manifest["files"]) == {
        "mesh.json", "learner/learner.json", "learner/learner.safetensors"
    }  # fmt: skip
    assert check_checkpoint(newest), "by digests, not by sizes alone"
    assert checkpoints.find().checkpoint == newest


def test_what_the_learner_has_hashed_is_not_hashed_again(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def recorded(path: Path):
        hashed.append(path.name)
        return digest_file(path)

    monkeypatch.setattr("alphagrpo.record.manifest.digest_file", recorded)
    write(checkpoints, 6)
    assert sorted(hashed) == ["learner.json", "mesh.json"]


def test_a_file_that_never_arrived_here_makes_no_checkpoint(checkpoints: Checkpoints) -> None:
    with pytest.raises(CheckpointError, match="does not exist"), checkpoints.writing(6) as path:
        write_state(path / "state.json", {"files": {"gone": {"bytes": 1, "blake3": "0"}}})
    assert steps(checkpoints) == [0, 2, 4]
    assert not list(checkpoints.path.glob("*6"))


@pytest.mark.parametrize("name", ["learner/learner.safetensors", "learner/learner.json",
                                  "mesh.json", "complete.json"])  # fmt: skip
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_one_is_passed_over_told_of_and_moved_aside(
    checkpoints: Checkpoints, name: str, damage: str
) -> None:
    file = checkpoints.path / "step-000004" / name
    data = file.read_bytes()
    if name.endswith(".json"):
        data = data.replace(b'"step": 4', b'"step": 5') if "bit" in damage else data[:20]
    else:
        data = DAMAGES[damage](data)
    file.write_bytes(data)
    point = checkpoints.find()
    assert point.step == 2
    (told,) = point.warnings()
    assert "checkpoint step-000004 is passed over" in told
    assert Path(name).name in told
    assert steps(checkpoints) == [0, 2, 4], "looking changes nothing"
    checkpoints.settle(point)
    assert steps(checkpoints) == [0, 2]
    assert (checkpoints.path / "damaged" / "step-000004" / name).read_bytes() == data
    write(checkpoints, 4)
    (checkpoints.path / "step-000004" / name).write_bytes(b"")
    checkpoints.settle(checkpoints.find())
    assert names(checkpoints.path / "damaged") == ["step-000004", "step-000004-2"]


def test_a_missing_file_and_the_manifest_of_another_step_are_damages(
    checkpoints: Checkpoints,
) -> None:
    two, four = checkpoints.complete()[1:]
    (four / "mesh.json").unlink()
    (two / "complete.json").write_bytes((four / "complete.json").read_bytes())
    assert "mesh.json" in problem(four)
    assert "step must be 2, as the folder says, got 4" in problem(two)
    assert checkpoints.find().step == 0


def test_where_every_one_is_damaged_the_run_is_not_silently_begun_again(
    checkpoints: Checkpoints,
) -> None:
    for path in checkpoints.complete():
        (path / "mesh.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"all 3 in .* are damaged .*--resume 0"):
        checkpoints.find()
    point = checkpoints.find(0)
    assert (point.checkpoint, point.step) == (None, 0)
    checkpoints.settle(point)
    assert steps(checkpoints) == []
    assert names(checkpoints.path) == ["damaged", "later"]


def test_a_step_is_chosen_and_later_ones_are_moved_aside(checkpoints: Checkpoints) -> None:
    checkpoints.settle(checkpoints.find(2))
    assert steps(checkpoints) == [0, 2]
    assert names(checkpoints.path / "later") == ["step-000004"]
    with pytest.raises(ConfigError, match=r"got 4; it has those of steps 0, 2$"):
        checkpoints.find(4)
    (checkpoints.path / "step-000002" / "mesh.json").unlink()
    with pytest.raises(CheckpointError, match=r"--resume 2 needs a whole checkpoint: .*mesh\.json"):
        checkpoints.find(2)


def test_what_is_the_users_is_left_alone(checkpoints: Checkpoints) -> None:
    path = checkpoints.path
    (path / "mine").mkdir()
    (path / "step-000004-copy").mkdir()
    (path / "step-000004-copy" / "complete.json").write_text("{}")
    (path / "step-9").mkdir()
    (path / "notes.txt").write_text("mine")
    (path / "step-000008").write_text("a file of a checkpoint's name")
    before = names(path)
    assert checkpoints.find().step == 4
    checkpoints.settle(checkpoints.find())
    checkpoints.prune(3)
    assert names(path) == before
    write(checkpoints, 8)
    assert (path / "damaged" / "step-000008").read_text() == "a file of a checkpoint's name"


def test_what_a_killed_process_had_begun_is_removed_and_what_lost_its_manifest_is_kept(
    checkpoints: Checkpoints,
) -> None:
    begun = checkpoints.path / "step-000006"
    begun.mkdir()
    (begun / "unfinished").touch()
    lost = checkpoints.path / "step-000008"
    lost.mkdir()
    (lost / "mesh.json").write_text("{}")
    point = checkpoints.find()
    assert [path.name for path, _ in point.damaged] == ["step-000008"]
    checkpoints.settle(point)
    assert names(checkpoints.path) == ["damaged", "step-000000", "step-000002", "step-000004"]


def test_a_folder_with_nothing_but_a_begun_one_goes_on_from_the_start(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.find().checkpoint is None
    (tmp_path / "step-000002").mkdir()  # as a killed writer of an earlier version left it
    point = checkpoints.find()
    assert (point.checkpoint, point.step) == (None, 0)
    checkpoints.settle(point)
    assert names(tmp_path) == ["damaged"]


def test_pruning_counts_sound_ones_only_and_removes_no_damaged_one(
    checkpoints: Checkpoints,
) -> None:
    (checkpoints.path / "step-000004" / "mesh.json").unlink()
    checkpoints.prune(1)
    assert steps(checkpoints) == [2, 4]
    checkpoints.settle(checkpoints.find())
    checkpoints.prune(1)
    assert steps(checkpoints) == [2]
    assert names(checkpoints.path / "damaged") == ["step-000004"]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (999_999, 1_000_000):
        write(checkpoints, step)
    assert steps(checkpoints) == [999_999, 1_000_000]


def test_a_checkpoint_of_an_earlier_version_is_compared_by_its_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "step-000002"
    (folder / "learner").mkdir(parents=True)
    (folder / "learner" / "learner.safetensors").write_bytes(b"12345678")
    (folder / "learner" / "learner.json").write_text('{"format": 1, "step": 2, "bytes": 8}')
    (folder / "mesh.json").write_text("{}")
    (folder / "complete.json").write_text('{"step": 2}')
    assert check_checkpoint(folder) is False
    assert Checkpoints(tmp_path).find().step == 2
    (folder / "learner" / "learner.safetensors").write_bytes(b"1234")
    assert "must have 8 bytes, got 4" in problem(folder)
