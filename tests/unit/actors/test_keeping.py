"""Runners make their verifier over the verdicts that the run has kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from actors.parts import Part
from actors.verdicts import keeping
from alphagrpo.judging.kept import KeptVerdicts
from tests.fakes import make_config, make_questions


async def test_a_runners_verifier_is_the_runs_own_over_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = make_config(output="runs")
    part = keeping(Part("tests.fakes:make_fake_verifier", {"fail_calls": []}), config)
    travelled = Part.from_json(json.loads(json.dumps(part.to_json())))
    assert travelled.arguments["path"] == str(tmp_path / "runs/fake/kept-verdicts.parquet")
    verifier = travelled.make()
    assert isinstance(verifier, KeptVerdicts)
    questions = make_questions("a").questions
    verdicts = await verifier.verify(np.zeros((4, 4, 3), np.uint8), questions)
    assert [verdict.question_id for verdict in verdicts] == ["s0", "q0"]
