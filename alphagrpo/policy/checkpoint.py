"""A learner's checkpoint as a policy reads it: masters of the trained weights, and their version.

:mod:`alphagrpo.learner.state` writes the folder and restores the rest of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphagrpo import files
from alphagrpo.errors import CheckpointError
from alphagrpo.tensor_files import open_tensors

TENSORS, STATE = "learner.safetensors", "learner.json"
MASTER = "master/"
"""Prefix of the weights among the tensors; moments have others."""
FORMAT = 1
"""Raised whenever a file of an older format can no longer be read."""


def load_weights(parameters: Mapping[str, Tensor], folder: str | Path) -> int:
    """Copy a checkpoint's weights into ``parameters``, all or none; returns their version.

    Raises:
        CheckpointError: a file is missing or truncated, or the weights are of other parameters.
    """
    folder = Path(folder)
    state = read_state(folder)
    masters = read_tensors(folder, state, MASTER)
    require_masters(
        {name: tuple(parameter.shape) for name, parameter in parameters.items()},
        masters,
        f"{folder} must hold exactly the policy's trainable parameters",
        "serve it with the model section of its run",
    )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(masters[MASTER + name])
    return int(state["version"])


def require_masters(
    shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], rule: str, remedy: str
) -> None:
    """Raise CheckpointError unless the masters among ``tensors`` have these names and shapes."""
    expected = {MASTER + name: shape for name, shape in shapes.items()}
    got = {k: tuple(t.shape) for k, t in tensors.items() if k.startswith(MASTER)}
    names = expected.keys() | got.keys()
    different = sorted(name for name in names if expected.get(name) != got.get(name))
    if different:
        first = different[0].removeprefix(MASTER)
        raise CheckpointError(f"{rule}, {len(different)} differ (the first: {first}); {remedy}")


def read_state(folder: Path) -> dict[str, Any]:
    """The JSON half of a checkpoint: step, version, visits and the tensor file's size.

    Raises CheckpointError where it is missing, no JSON or of another format.
    """
    return files.read_state(folder / STATE, format_number=FORMAT, owner="a learner's checkpoint")


def read_tensors(folder: Path, state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``.

    Raises CheckpointError for a file that is not whole, or not the one that ``state`` was written
    for.
    """
    path, size = folder / TENSORS, int(state["bytes"])
    with open_tensors(
        path,
        owner="a learner's checkpoint",
        remedy="resume from an earlier checkpoint",
        framework="pt",
    ) as file:
        if path.stat().st_size != size:
            raise CheckpointError(
                f"{path} must have {size} bytes, got {path.stat().st_size}; it is not the file its "
                f"{STATE} was written for: resume from an earlier checkpoint"
            )
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}
