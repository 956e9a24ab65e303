"""A learner on disk: tensors as safetensors, the rest as JSON, never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alphagrpo.errors import CheckpointError
from alphagrpo.files import replacing, write_atomically
from alphagrpo.learner.learner import GRPOLearner

TENSORS, STATE = "learner.safetensors", "learner.json"
MASTER = "master/"
FORMAT = 1
"""Raised whenever a file of an older format can no longer be read."""


def save_learner(learner: GRPOLearner, folder: str | Path) -> None:
    """Write parameters, AdamW moments, step, version and trained visits into ``folder``.

    The JSON file is written last and names the tensor file's size: a folder with it is whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in learner.optimizer.state_tensors().items()
    }
    (folder / STATE).unlink(missing_ok=True)
    with replacing(folder / TENSORS) as partial:
        save_file(tensors, partial)
    state = {
        "format": FORMAT,
        "step": learner.step,
        "version": learner.version,
        "visits": learner.visits,
        "bytes": (folder / TENSORS).stat().st_size,
    }
    write_atomically(folder / STATE, json.dumps(state))


def load_learner(learner: GRPOLearner, folder: str | Path) -> int:
    """Restore what :func:`save_learner` wrote; returns the step.

    Raises:
        CheckpointError: a file is missing, truncated, or of a learner with other parameters.
    """
    folder = Path(folder)
    state = _read_state(folder / STATE)
    tensors = _read_tensors(folder / TENSORS, int(state["bytes"]))
    learner.optimizer.load_state_tensors(tensors)
    learner.step, learner.version = int(state["step"]), int(state["version"])
    learner.visits = {str(name): int(visit) for name, visit in state["visits"].items()}
    learner.mark_exported()
    return learner.step


def load_weights(parameters: Mapping[str, Tensor], folder: str | Path) -> int:
    """Only the weights of a learner's checkpoint, for drawing; returns their version.

    ``parameters`` are changed all or not at all. Raises CheckpointError as :func:`load_learner`.
    """
    folder = Path(folder)
    state = _read_state(folder / STATE)
    tensors = _read_tensors(folder / TENSORS, int(state["bytes"]))
    masters = {k.removeprefix(MASTER): t for k, t in tensors.items() if k.startswith(MASTER)}
    wanted = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    got = {name: tuple(tensor.shape) for name, tensor in masters.items()}
    if wanted != got:
        different = sorted(k for k in wanted.keys() | got.keys() if wanted.get(k) != got.get(k))
        raise CheckpointError(
            f"{folder} must hold exactly the policy's trainable parameters, {len(different)} "
            f"differ (the first: {different[0]}); serve it with the model section of its run"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(masters[name])
    return int(state["version"])


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"a learner's checkpoint needs {path.name}, {path} does not exist; it was not "
            "finished: resume from an earlier one"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} must be JSON ({error}); resume from an earlier one"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} must be of format {FORMAT}, got "
            f"{state.get('format') if isinstance(state, dict) else state!r}; "
            "resume with the release that wrote it"
        )
    return state


def _read_tensors(path: Path, size: int) -> dict[str, Tensor]:
    try:
        if path.stat().st_size != size:
            raise CheckpointError(
                f"{path} must have {size} bytes, got {path.stat().st_size}; it is truncated: "
                "resume from an earlier checkpoint"
            )
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} must be a whole safetensors file ({error}); resume from an earlier checkpoint"
        ) from None
