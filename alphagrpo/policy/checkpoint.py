"""A learner's checkpoint as a policy reads it: masters of the trained weights, and their version.

:mod:`alphagrpo.learner.state` writes the folder and restores the rest of it. The tensors are in one
file, or, of a learner whose layers are sharded, in a file per rank with some rows of each, and an
index of which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphagrpo import files
from alphagrpo.errors import CheckpointError
from alphagrpo.tensor_files import open_tensors

TENSORS, STATE, INDEX = "learner.safetensors", "learner.json", "learner.index.json"
MASTER = "master/"
"""Prefix of the weights among the tensors; moments have others."""
FORMAT = 1
"""Raised whenever a file of an older format can no longer be read."""
OWNER = "a learner's checkpoint"
"""Who needs the files, in errors."""


class Piece(NamedTuple):
    """Some rows of a tensor: ``start`` to below ``stop``; a scalar is one row."""

    file: str
    start: int
    stop: int


class SavedTensors:
    """The tensors of an open checkpoint, whatever files they are in; read when asked for."""

    def __init__(
        self,
        files: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        pieces: Mapping[str, Sequence[Piece]],
    ) -> None:
        self._files, self.shapes, self._pieces = files, shapes, pieces

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor, or its rows from the first of ``rows`` to below the second, and no others."""
        shape = self.shapes[name]
        first, end = rows or (0, count_rows(shape))
        if not shape:
            return self._files[self._pieces[name][0].file].get_tensor(name)
        parts = [
            self._files[piece.file].get_slice(name)[
                max(first, piece.start) - piece.start : min(end, piece.stop) - piece.start
            ]
            for piece in self._pieces[name]
            if max(first, piece.start) < min(end, piece.stop)
        ]
        if not parts:
            return torch.empty(0, *shape[1:])
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def load_weights(parameters: Mapping[str, Tensor], folder: str | Path) -> int:
    """Copy a checkpoint's weights into ``parameters``, all or none; returns their version.

    Raises:
        CheckpointError: a file is missing or truncated, or the weights are of other parameters.
    """
    folder = Path(folder)
    state = read_state(folder)
    with open_checkpoint(folder, state) as saved, torch.no_grad():
        require_masters(
            {name: tuple(parameter.shape) for name, parameter in parameters.items()},
            saved.shapes,
            f"{folder} must hold exactly the policy's trainable parameters",
            "serve it with the model section of its run",
        )
        for name, parameter in parameters.items():
            parameter.copy_(saved.read(MASTER + name))
    return int(state["version"])


def require_masters(
    shapes: Mapping[str, tuple[int, ...]],
    saved: Mapping[str, tuple[int, ...]],
    rule: str,
    remedy: str,
) -> None:
    """Raise CheckpointError unless the masters among ``saved`` have these names and shapes."""
    expected = {MASTER + name: shape for name, shape in shapes.items()}
    got = {name: shape for name, shape in saved.items() if name.startswith(MASTER)}
    names = expected.keys() | got.keys()
    different = sorted(name for name in names if expected.get(name) != got.get(name))
    if different:
        first = different[0].removeprefix(MASTER)
        raise CheckpointError(f"{rule}, {len(different)} differ (the first: {first}); {remedy}")


def read_state(folder: Path) -> dict[str, Any]:
    """The JSON half of a checkpoint: step, version, visits and the sizes of its other files.

    Raises CheckpointError where it is missing, no JSON or of another format.
    """
    return files.read_state(folder / STATE, format_number=FORMAT, owner=OWNER)


@contextmanager
def open_checkpoint(folder: Path, state: Mapping[str, Any]) -> Iterator[SavedTensors]:
    """The tensors of the checkpoint that ``state`` was written for.

    Raises CheckpointError for a file that is not whole, or not the one that ``state`` names.
    """
    sizes: Mapping[str, int] = state["files"] if "files" in state else {TENSORS: state["bytes"]}
    with ExitStack() as stack:
        opened = {}
        for name, size in sizes.items():
            if name != INDEX:
                opened[name] = stack.enter_context(
                    open_tensors(
                        folder / name,
                        owner=OWNER,
                        remedy="resume from an earlier checkpoint",
                        framework="pt",
                    )
                )
            _require_size(folder / name, int(size))
        if INDEX in sizes:
            yield _indexed(folder, opened)
        else:
            yield _whole(opened)


def count_rows(shape: Sequence[int]) -> int:
    """How many rows a tensor of this shape is cut into at most; a scalar is one."""
    return shape[0] if shape else 1


def _whole(opened: Mapping[str, Any]) -> SavedTensors:
    file = opened[TENSORS]
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    pieces = {name: [Piece(TENSORS, 0, count_rows(shape))] for name, shape in shapes.items()}
    return SavedTensors(opened, shapes, pieces)


def _indexed(folder: Path, opened: Mapping[str, Any]) -> SavedTensors:
    index = files.read_state(folder / INDEX, format_number=FORMAT, owner=OWNER)["tensors"]
    return SavedTensors(
        opened,
        {name: tuple(entry["shape"]) for name, entry in index.items()},
        {name: [Piece(*piece) for piece in entry["rows"]] for name, entry in index.items()},
    )


def _require_size(path: Path, size: int) -> None:
    try:
        got = path.stat().st_size
    except FileNotFoundError:
        got = 0
    if got != size:
        raise CheckpointError(
            f"{path} must have {size} bytes, got {got}; it is not the file its {STATE} was "
            "written for: resume from an earlier checkpoint"
        )
