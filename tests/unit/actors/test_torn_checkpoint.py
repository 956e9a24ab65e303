"""A step that was cut short is in no checkpoint by half."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.saved import _refuse_torn
from alphagrpo.errors import CheckpointError


def test_learner_and_loop_stand_at_the_same_step(tmp_path: Path) -> None:
    state = tmp_path / "learner.json"
    state.write_text(json.dumps({"step": 4}))
    _refuse_torn(state, 4)
    with pytest.raises(CheckpointError, match="the same step in a checkpoint, got 4 and 3"):
        _refuse_torn(state, 3)
