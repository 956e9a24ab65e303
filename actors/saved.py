"""A run's checkpoint folder: ``mesh.json`` of the driver, and the learner's folder beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alphagrpo import files
from alphagrpo.digests import FILES, REMEDY, check_file, digest_file, files_of
from alphagrpo.errors import CheckpointError
from alphagrpo.record.manifest import LEARNER_STATE

STATE, LEARNER = "mesh.json", "learner"
FORMAT, OLDEST = 2, 1
"""Of ``mesh.json``. Format 1 had no digests; it is still read."""


def write_state(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``mesh.json``, with the digest of the learner's state, which has those of its files.

    Written last: a folder that has it is whole. Raises CheckpointError where nothing of the learner
    is here.
    """
    learner_state = folder / LEARNER / LEARNER_STATE
    if not learner_state.is_file():
        raise CheckpointError(
            f"the learner's node must see {folder}, nothing it wrote is here; "
            "use storage that all nodes share"
        )
    named = {f"{LEARNER}/{LEARNER_STATE}": digest_file(learner_state).to_json()}
    files.write_state(folder / STATE, {"format": FORMAT, FILES: named, **content})


def refuse_torn(folder: Path, step: int) -> None:
    """Raise CheckpointError where a step was cut short between the learner's and the loop's part of
    it: what was learnt is in the weights and nowhere else.
    """
    path = folder / LEARNER / LEARNER_STATE
    saved = json.loads(path.read_text(encoding="utf-8"))["step"] if path.is_file() else step
    if saved != step:
        raise CheckpointError(
            f"learner and loop must stand at the same step in a checkpoint, got {saved} and {step}"
        )


def read_state(folder: Path) -> dict[str, Any]:
    """``mesh.json`` of a checkpoint folder.

    Raises CheckpointError where there is none of this format, where it holds what cannot be, or
    where the learner's state beside it is another's.
    """
    path = folder / STATE
    state = files.read_state(path, format_number=FORMAT, oldest=OLDEST, owner="a run's checkpoint")
    loop, config = state.get("loop"), state.get("config")
    if not isinstance(loop, dict) or not isinstance(config, dict):
        raise CheckpointError(f"{path} must have the objects loop and config; {REMEDY}")
    for key in ("step", "position"):
        if not files.is_count(loop.get(key)):
            raise CheckpointError(
                f"{path}: {key} must be a whole number from 0 on, got {loop.get(key)!r}; {REMEDY}"
            )
    for name, expected in files_of(state, path).items():
        check_file(folder / name, expected)
    return state
