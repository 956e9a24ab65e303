"""Today's records against files that an earlier version wrote: the same bytes, the same figures.

``stored/`` was written at commit daad90d, when lines and figures were plain dicts: the evaluations
of :data:`SHADES` and a run of two steps. It is never written again. Intervals are other ones since
then, so what is computed today is compared without them; and training takes the wall seconds of its
steps, where it took the sum of their stages.
"""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from alphagrpo.cli.console import Narrator
from alphagrpo.cli.evaluate import show
from alphagrpo.cli.outcome import tell_outcome
from alphagrpo.errors import ServiceUnavailable
from alphagrpo.loop import StepReport
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.recorder import Recorder
from alphagrpo.types import Question, Sort, WeightsManifest
from tests.fakes import make_config
from tests.shades import evaluate_shades, shade_judges, shade_of

STORED = Path(__file__).parent / "stored"
SORTS_OF: dict[str, Sort] = {"a": "plain", "b": "plain", "t": "thought"}
SHADES = {
    "before": {"a": [40, 60, 30, 70], "b": [60, 33, 80, 20], "t": [33, 95, 10, 55]},
    "after": {"a": [60, 62, 64, 66], "b": [33, 40, 90, 60], "t": [51, 33, 52, 53]},
}
METRICS = (
    {
        "reward/mean": 0.5,
        "samples/drawn": 12.0,
        "samples/scored": 11.0,
        "samples/invalid": 1.0,
        "samples/trained": 8.0,
        "groups/dropped": 1.0,
        "time/rollout_s": 1.25,
        "time/verify_wait_s": 0.5,
        "time/learn_s": 2.0,
        "time/sync_s": 0.125,
        "time/step_s": 3.875,
        "learner/skipped": 1.0,
    },
    {
        "reward/mean": float("nan"),
        "samples/drawn": 12.0,
        "samples/scored": 12.0,
        "samples/invalid": 0.0,
        "samples/trained": 12.0,
        "groups/dropped": 0.0,
        "time/rollout_s": 1.5,
        "time/verify_wait_s": 0.25,
        "time/learn_s": 2.5,
        "time/sync_s": 0.25,
        "time/step_s": 4.5,
        "parity/image_max_abs_log_ratio": 2.5e-07,
        "parity/text_max_abs_log_ratio": 0.0,
        "image/max_abs_log_ratio": 2.5e-07,
    },
)
EXTRA = ({"time/wall_s": 5.0, "heldout/plain_all_right": 0.5}, {"time/wall_s": 6.0})


def answer(pixels: np.ndarray, question: Question) -> float:
    if shade_of(pixels) == 33:
        raise ServiceUnavailable("the fake verifier cannot see shade 33; wait")
    return shade_of(pixels) / 100 if question.kind == "semantic" else 0.5


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run folder with the stored files in it."""
    folder = RunFolder.create(make_config(name="stored", output=str(tmp_path)))
    shutil.copytree(STORED, folder.path, dirs_exist_ok=True)
    return folder


def without_intervals(text: str) -> str:
    """A JSON document without the intervals of its figures."""
    return json.dumps(json.loads(text, object_hook=_without_interval))


def _without_interval(figures: dict[str, object]) -> dict[str, object]:
    return {k: v for k, v in figures.items() if k not in ("low", "high", "all_right_interval")}


def text_of(folder: RunFolder, name: str) -> str:
    return (folder.path / name).read_text(encoding="utf-8")


def stored_text(name: str) -> str:
    return (STORED / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("phase", ["before", "after"])
async def test_an_evaluation_writes_the_stored_lines(phase: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _, lines = await evaluate_shades(
        SHADES[phase], rounds=2, sorts=SORTS_OF, judges=shade_judges(answer)
    )
    folder.write_evaluation(phase, lines)
    name = f"evaluation/{phase}.jsonl"
    assert text_of(folder, name) == stored_text(name)
    assert folder.evaluation(phase) == lines, "what is written is what is read"


def test_steps_and_summary_are_written_as_they_are_stored(run: RunFolder) -> None:
    run.metrics_path.unlink()
    (run.path / "summary.json").unlink()
    recorder = Recorder(run, make_config(name="stored"))
    for number, (metrics, extra) in enumerate(zip(METRICS, EXTRA, strict=True), start=1):
        report = StepReport(step=number, version=number, groups=(), training=(), metrics=metrics)
        recorder.record_step(report, extra)
    weights = WeightsManifest(
        version=2, checksum="c" * 64, names=(), shapes=(), dtypes=(), offsets=(), nbytes=0
    )
    summary = recorder.summary(
        wall_s=20.25,
        weights=weights,
        set_aside={"p9": "NoQuestions: none"},
        memory={"mesh_gib": 5.4, "driver_gib": 1.2},
    )
    run.write_summary(summary)
    assert text_of(run, "metrics.jsonl") == stored_text("metrics.jsonl")
    written, stored = text_of(run, "summary.json"), stored_text("summary.json")
    assert summary.training_s == 11.0, "the sum of time/wall_s"
    written = written.replace('"training_s": 11.0', '"training_s": 8.375')
    assert without_intervals(written) == without_intervals(stored)
    assert run.summary() == summary, "what is written is what is read"


def test_a_summary_that_is_read_is_written_as_it_was(run: RunFolder) -> None:
    run.write_summary(run.summary())
    assert text_of(run, "summary.json") == stored_text("summary.json")


def test_the_commands_print_the_stored_objects(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(stored_text("summary.json"))
    tell_outcome(Narrator(as_json=True), run.summary(), Path("runs/stored/report.html"))
    event = {"event": "outcome", "report": "runs/stored/report.html", "summary": document}
    assert capsys.readouterr().out == json.dumps(event) + "\n"
    lines = tmp_path / "deep" / "lines.jsonl"
    edits = {"edit.n": 8.0, "edit.both": 0.5}
    show(Namespace(json=True, output=lines), run.evaluation("after"), edits, Narrator())
    figures = document["evaluation"]["after"] | {"edits": edits}
    shown = capsys.readouterr().out
    assert without_intervals(shown) == without_intervals(json.dumps(figures))
    assert lines.read_text(encoding="utf-8") == stored_text("evaluation/after.jsonl")
