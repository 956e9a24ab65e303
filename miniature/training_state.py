"""The resumable state of a training run as one safetensors file; nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from alphagrpo.errors import CheckpointError
from alphagrpo.files import replacing

CHECKPOINT_NAME = "training.safetensors"


def save_training(
    path: Path,
    named: Mapping[str, nn.Parameter],
    ema: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    counters: Mapping[str, float],
) -> None:
    """Write weights, averages, moments and counters; the old file stays until the new is whole."""
    tensors = {f"model/{name}": value.detach().clone() for name, value in named.items()}
    tensors |= {f"ema/{name}": value.clone() for name, value in ema.items()}
    for name, parameter in named.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value).clone()
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"counters": json.dumps(dict(counters))})


def load_training(
    path: Path,
    named: Mapping[str, nn.Parameter],
    ema: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> dict[str, float]:
    """Put :func:`save_training`'s state back into all four; returns the counters.

    Raises:
        CheckpointError: the file is broken, or is of a model of another shape.
    """
    tensors, counters = _read(path)
    _check_shapes(path, tensors, named)
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[f"model/{name}"])
            if name in ema and f"ema/{name}" in tensors:
                ema[name].copy_(tensors[f"ema/{name}"])
            moments = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (value := tensors.get(f"optimizer/{key}/{name}")) is not None:
                    moments[key] = value
            if moments:
                optimizer.state[parameter] = moments
    return counters


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    try:
        with safe_open(path, "pt") as file:
            counters = json.loads((file.metadata() or {})["counters"])
            return {key: file.get_tensor(key) for key in file.keys()}, counters
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"a training checkpoint is one whole safetensors file, got {path.name}: {error}; "
            "delete it and start again"
        ) from error


def _check_shapes(
    path: Path, tensors: Mapping[str, Tensor], named: Mapping[str, nn.Parameter]
) -> None:
    shapes = {
        key.removeprefix("model/"): tuple(value.shape)
        for key, value in tensors.items()
        if key.startswith("model/")
    }
    if shapes != {name: tuple(value.shape) for name, value in named.items()}:
        raise CheckpointError(
            f"a training checkpoint fits the model it continues, got {path.name} of another "
            "shape; delete it, or start without resuming"
        )
