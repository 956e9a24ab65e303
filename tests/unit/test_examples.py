"""The scripts in examples/ run as they stand, made small."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = (
    "rollout.prompts_per_step=2", "rollout.group_size=4", "data.num_train=8",
    "rollout.flow.num_points=4", "rollout.flow.window={length: 1, allowed: [0, 2]}",
)  # fmt: skip


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_process_takes_a_step_with_exact_parity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # it must not depend on where it is started
    settings = [part for value in TINY for part in ("--set", value)]
    (report,) = load_example("train_in_process").main(["--steps", "1", *settings])
    samples = [sample for group in report.groups for sample in group.samples]
    assert len(samples) == 8
    assert all(sample.score is not None for sample in samples)
    assert {v.judge for sample in samples for v in sample.score.verdicts} == {"oracle"}
    assert {v.p_yes for sample in samples for v in sample.score.verdicts} == {0.0, 1.0}
    assert report.metrics["learner/step"] == 1
    assert report.version == 1
    for part in ("text", "image"):
        assert report.metrics[f"{part}/max_abs_log_ratio"] == 0.0
    printed = capsys.readouterr().out
    assert f"step   1   reward {report.metrics['reward/mean']:.3f}" in printed
    assert "parity 0 " in printed
    assert report.groups[0].job.prompt.text in printed
    assert re.search(r"weights  version 1, checksum [0-9a-f]{64}\n", printed)
    assert not list(tmp_path.iterdir())
