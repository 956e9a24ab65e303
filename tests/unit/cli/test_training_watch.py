"""A run whose judge is watched: alarms in metrics, log and report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphagrpo.cli import watching
from alphagrpo.config import RunConfig
from alphagrpo.eval.canary import shapes_canary
from alphagrpo.images import encode_png
from alphagrpo.record.manifest import step_of
from alphagrpo.types import Question, Verdict
from tests.fake_training import LearningPool, config_in, train, world_judges
from tests.fakes import (
    FakeVerifier,
)
from tests.synthetic_run import OracleVerifier

__all__ = ["world_judges"]


class DriftingVerifier(OracleVerifier):
    """Right at first; after ``good`` pictures it says yes to everything."""

    def __init__(self, good: int) -> None:
        self.good = good

    async def verify(self, pixels: np.ndarray, questions: list[Question]) -> tuple[Verdict, ...]:
        self.good -= 1
        verdicts = await super().verify(pixels, questions)
        return verdicts if self.good >= 0 else tuple(replace(v, p_yes=0.93) for v in verdicts)


def test_a_judge_that_drifts_is_an_alarm_in_metrics_log_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    verifier = DriftingVerifier(good=16)
    monkeypatch.setattr(watching, "connect", lambda _config, _app: verifier)
    config = config_in(tmp_path, watch={"canary": "shapes:8", "every": 2})
    folder = train(config)
    lines = folder.metrics()
    assert [line.get("watch/canary_accuracy", -1) > 0 for line in lines] == [
        True,
        True,
        False,
        True,
    ]
    assert [line["watch/alarm_drift"] for line in lines] == [0, 0, 0, 1]
    assert lines[0]["watch/canary_drift"] == lines[1]["watch/canary_drift"] == 0
    assert lines[3]["watch/canary_drift"] > 0.2
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert (
        [text for text in told if "alarm" in text]
        == [
            text for text in told if text.startswith("alarm at step 4: the judge drifts (accuracy ")
        ]
        != []
    )
    page = folder.report_path.read_text(encoding="utf-8")
    assert '<p class="alarm" role="alert"><b>Alarm</b> the judge drifts, since step 4 (acc' in page
    kept = json.loads((folder.path / "watch.json").read_text())
    questions = sum(len(picture.questions) for picture in shapes_canary(8))
    assert (kept["judge"], len(kept["answers"])) == ("fake@1", questions)


def test_an_alarm_ends_a_run_only_where_it_is_asked_to_and_resume_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = DriftingVerifier(good=8)
    monkeypatch.setattr(watching, "connect", lambda _config, _app: verifier)
    watch = {"canary": "shapes:8", "every": 2, "stop": True}
    config = config_in(tmp_path, watch=watch, num_steps=5, checkpoint_every=4)
    folder = train(config)
    assert folder.summary().steps == 2
    assert (folder.summary().stopped_by or "").startswith("watch.stop: the judge drifts")
    assert step_of(folder.checkpoints()[-1]) == 2
    assert train(config, resume=True).summary().steps == 5
    assert [line["watch/alarm_drift"] for line in folder.metrics()] == [0, 1, 1, 1, 1]


def test_without_a_canary_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(_config: RunConfig, _app: str) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(watching, "connect", connect)
    folder = train(config_in(tmp_path))
    assert not [key for line in folder.metrics() for key in line if "canary" in key]
    assert not (folder.path / "watch.json").exists()


def test_a_second_verifier_is_asked_about_kept_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class PicturingPool(LearningPool):
        async def roll_out(self, *args: Any, **options: Any) -> Any:
            report = await super().roll_out(*args, **options)
            png = encode_png(np.full((16, 16, 3), len(self.jobs), np.uint8))
            return replace(
                report, samples=tuple(replace(s, png=s.png and png) for s in report.samples)
            )

    def connect(_config: RunConfig, app: str) -> FakeVerifier:
        asked.append(app)
        return FakeVerifier(lambda _pixels, _question: 0.25)

    monkeypatch.setattr(watching, "connect", connect)
    config = config_in(tmp_path, watch={"heldout_app": "other", "every": 2}, report_groups_every=2)
    lines = train(config, pool=PicturingPool()).metrics()
    assert asked == ["other"]
    assert [line.get("watch/heldout_score") for line in lines] == [0.25, None, 0.25, None]
    assert 0 < lines[0]["watch/heldout_reward"] < 1
