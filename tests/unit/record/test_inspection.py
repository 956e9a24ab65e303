"""``alphagrpo doctor RUN``: a run folder with nothing wrong, and each thing that can be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alphagrpo.cli.main import main
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.inspection import inspect_run
from tests.synthetic_run import make_run


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("run"), steps=3, heldout=2)
    for step in (0, 2):
        with folder.checkpoint(step) as path:
            (path / "mesh.json").write_text(json.dumps({"step": step}))
    return folder.path


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(sound, tmp_path / "run")))


def told(folder: RunFolder, verdict: str) -> list[str]:
    return [f"{f.name}: {f.value}" for f in inspect_run(folder) if f.verdict == verdict]


def replace(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def test_a_sound_run_has_nothing_to_tell(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(folder, "bad") == told(folder, "note") == []
    assert main(["doctor", str(folder.path)]) == 0
    assert "checkpoints/step-000002" in capsys.readouterr().out
    assert main(["doctor", str(folder.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name": "metrics.jsonl", "value": "3 steps", "verdict": "ok", "remedy": ""} in found


def test_each_damage_is_named_and_has_a_remedy(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = sorted((folder.path / "images").glob("*.png"))[0]
    picture.write_bytes(picture.read_bytes()[:40])
    replace(folder.path / "config.yaml", b"group_size:", b"group_sise:")
    replace(folder.metrics_path, b'"step": 2', b'"step": "2"')
    replace(folder.summary_path, b'"steps": 3', b'"steps": "3"')
    replace(folder.evaluation_path("before"), b'"id"', b'"ids"')
    (folder.path / "ledger/step-000003.parquet").write_bytes(b"PAR1")
    ledger = folder.path / "ledger"
    shutil.copy(ledger / "step-000001.parquet", ledger / "step-000002.parquet")
    replace(folder.path / "checkpoints/step-000002/mesh.json", b"2", b"3")
    bad = "\n".join(told(folder, "bad"))
    for expected in (
        "config.yaml: ",
        "metrics.jsonl: line 2: ",
        "summary.json: ",
        "ledger/step-000003.parquet: cannot be read",
        "ledger/step-000002.parquet: holds steps 1",
        "checkpoints/step-000002: ",
        "evaluation/before.jsonl: line 1: ",
        f"images/{picture.name}: is not the picture of that name",
    ):
        assert expected in bad
    assert all(finding.remedy for finding in inspect_run(folder) if finding.verdict == "bad")
    assert main(["doctor", str(folder.path)]) == 1
    assert "--resume STEP" in capsys.readouterr().out


def test_steps_that_are_missing_on_one_side_are_found(folder: RunFolder) -> None:
    (folder.path / "ledger/step-000002.parquet").unlink()
    assert told(folder, "bad") == ["ledger: nothing of steps 2"]
    folder.rewind(1)
    assert told(folder, "bad") == ["checkpoints/step-000002: metrics end with step 1"]
    shutil.rmtree(folder.checkpoints_path)
    assert told(folder, "bad") == ["checkpoints: none is whole"]


def test_lines_that_are_missing_or_twice_are_found(folder: RunFolder) -> None:
    first, second, third = folder.metrics_path.read_text().splitlines(keepends=True)
    folder.metrics_path.write_text(first + third)
    assert "metrics.jsonl: no line of steps 2" in told(folder, "bad")
    folder.metrics_path.write_text(first + second + second + third + "{")
    assert "metrics.jsonl: steps 2 out of order or twice" in told(folder, "bad")
    assert "metrics.jsonl: the last line was cut short" in told(folder, "note")


def test_a_group_that_lost_one_of_its_pictures_is_found(folder: RunFolder) -> None:
    kept = {
        (step, group): names
        for step in folder.ledger_steps()
        for group, names in folder.ledger_pictures(step).items()
        if all(folder.has_picture(name) for name in names)
    }
    (step, group), names = next(iter(kept.items()))
    (folder.path / "images" / f"{sorted(names)[0]}.png").unlink()
    assert any(
        f"images of step {step}: group {group} lacks" in line for line in told(folder, "bad")
    )


def test_what_resuming_will_clear_up_is_a_note(folder: RunFolder) -> None:
    begun = folder.checkpoints_path / "step-000003"
    begun.mkdir()
    (begun / "unfinished").touch()
    (folder.path / ".x.1-a.partial").touch()
    (folder.checkpoints_path / "damaged" / "step-000001").mkdir(parents=True)
    assert told(folder, "bad") == []
    assert told(folder, "note") == [
        "checkpoints/step-000003: unfinished",
        "checkpoints/damaged: step-000001",
        "partial files: .x.1-a.partial",
    ]
