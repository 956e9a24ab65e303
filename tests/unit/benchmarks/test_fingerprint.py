"""Two runs are the same where every reward and the final weights are, to the bit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from alphagrpo.ports import GroupReport, Sample
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.summary import PublishedWeights, RunSummary
from benchmarks.fingerprint import main
from tests.fakes import make_config, make_job, make_prompts, make_questions


def run_folder(path: Path, rewards: list[float | None], checksum: str = "ab" * 32) -> Path:
    config = make_config(name=path.name, output=str(path.parent))
    folder = RunFolder.create(config)
    (prompt,) = make_prompts(1)
    report = GroupReport(
        job=make_job(prompt, config),
        questions=make_questions(prompt.text),
        samples=tuple(Sample(id="s", thought="", score=None, reward=r) for r in rewards),
        reference=None,
        runner="r",
    )
    folder.record_step(1, [report], [None])
    folder.append_metrics(1, {"reward/mean": 0.5})
    folder.write_summary(RunSummary(weights=PublishedWeights(version=1, checksum=checksum)))
    return folder.path


def test_equal_runs_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [run_folder(tmp_path / name, [0.25, None]) for name in ("one", "two")]
    assert main([str(path) for path in paths]) == 0
    printed = capsys.readouterr().out
    assert "rewards of step 1 (2)" in printed
    assert "1: abababab" in printed
    assert "the same bits" in printed


@pytest.mark.parametrize(
    "other",
    [
        {"rewards": [math.nextafter(0.25, 1.0) + 2**-24, None]},
        {"rewards": [0.25, 0.0]},
        {"rewards": [None, 0.25]},
        {"rewards": [0.25, None], "checksum": "ac" * 32},
    ],
    ids=["one bit", "absent is not zero", "order", "weights"],
)
def test_the_smallest_difference_is_seen(
    tmp_path: Path, other: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    one = run_folder(tmp_path / "one", [0.25, None])
    two = run_folder(tmp_path / "two", **other)
    assert main([str(one), str(two)]) == 1
    assert "different" in capsys.readouterr().out
