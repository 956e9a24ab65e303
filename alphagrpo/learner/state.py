"""A learner on disk: tensors as safetensors, the rest as JSON, never pickle."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from alphagrpo.files import replacing, write_atomically
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.policy.checkpoint import FORMAT, STATE, TENSORS, read_state, read_tensors


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
    state = read_state(folder)
    tensors = read_tensors(folder, state)
    learner.optimizer.load_state_tensors(tensors)
    learner.step, learner.version = int(state["step"]), int(state["version"])
    learner.visits = {str(name): int(visit) for name, visit in state["visits"].items()}
    learner.mark_exported()
    return learner.step
