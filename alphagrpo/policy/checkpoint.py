"""A learner's checkpoint as a policy reads it: masters of the trained weights, and their version.

:mod:`alphagrpo.learner.state` writes the folder and restores the rest of it. The tensors are in one
file, or, of a learner whose layers are sharded, in a file per rank with some rows of each, and an
index of which. ``learner.json`` has the digests of them all, and one of itself; a file is compared
with its digest before the first of its tensors is read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphagrpo import files
from alphagrpo.digests import REMEDY, check_file, check_size, files_of
from alphagrpo.errors import CheckpointError
from alphagrpo.tensor_files import open_tensors

log = logging.getLogger(__name__)

TENSORS, STATE, INDEX = "learner.safetensors", "learner.json", "learner.index.json"
MASTER = "master/"
"""Prefix of the weights among the tensors; moments have others."""
FORMAT, OLDEST = 2, 1
"""Format 1 had sizes but no digests: it is read, and a line in the log says what was not proved."""
OWNER = "a learner's checkpoint"
"""Who needs the files, in errors."""


class Piece(NamedTuple):
    """Some rows of a tensor: ``start`` to below ``stop``; a scalar is one row."""

    file: str
    start: int
    stop: int


class SavedTensors:
    """The tensors of an open checkpoint, whatever files they are in; read when asked for.

    ``prove`` is called with the name of a file before the first of its tensors is read, and raises
    CheckpointError where its bytes are not those that were written.
    """

    def __init__(
        self,
        files: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        pieces: Mapping[str, Sequence[Piece]],
        prove: Callable[[str], None],
    ) -> None:
        self._files, self.shapes, self._pieces = files, shapes, pieces
        self._prove = cache(prove)

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor, or its rows from the first of ``rows`` to below the second, and no others.

        Raises CheckpointError where its file is damaged, or a value of it is not finite.
        """
        tensor = self._read(name, rows)
        require_finite(name, tensor)
        return tensor

    def _read(self, name: str, rows: tuple[int, int] | None) -> Tensor:
        shape = self.shapes[name]
        first, end = rows or (0, count_rows(shape))
        if not shape:
            return self._file(self._pieces[name][0]).get_tensor(name)
        parts = [
            self._file(piece).get_slice(name)[
                max(first, piece.start) - piece.start : min(end, piece.stop) - piece.start
            ]
            for piece in self._pieces[name]
            if max(first, piece.start) < min(end, piece.stop)
        ]
        if not parts:
            return torch.empty(0, *shape[1:])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _file(self, piece: Piece) -> Any:
        self._prove(piece.file)
        return self._files[piece.file]


def load_weights(parameters: Mapping[str, Tensor], folder: str | Path) -> int:
    """Copy a checkpoint's weights into ``parameters``, all or none; returns their version.

    Raises:
        CheckpointError: a file is missing or damaged, a value is not finite, or the weights are of
            other parameters.
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
        for name in parameters:
            saved.read(MASTER + name)  # all are known to be good before the first is changed
        for name, parameter in parameters.items():
            parameter.copy_(saved.read(MASTER + name))
    return int(state["version"])


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise CheckpointError where a weight or a moment is NaN or infinite, which none can be."""
    if tensor.numel() and not all(math.isfinite(end) for end in torch.aminmax(tensor)):
        raise CheckpointError(
            f"weights and moments of a checkpoint must be finite numbers, {name} has others; "
            f"{REMEDY}"
        )


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
    """The JSON half of a checkpoint: step, version, visits and the digests of its other files.

    Raises CheckpointError where it is missing, not as it was written, of another format, or holds
    what cannot be.
    """
    path = folder / STATE
    state = files.read_state(path, format_number=FORMAT, oldest=OLDEST, owner=OWNER)
    if state["format"] < FORMAT:
        log.warning("%s was written before checkpoints had digests: only sizes are compared", path)
    step, version, visits = (state.get(key) for key in ("step", "version", "visits"))
    # Before anything was published the version is -1.
    lowest = -1 if step == 0 else 0
    if not files.is_count(step):
        raise _impossible(path, "step", "a whole number from 0 on", step)
    if version != lowest and not files.is_count(version):
        raise _impossible(path, "version", f"a whole number from {lowest} on", version)
    if not isinstance(visits, dict) or not all(map(files.is_count, visits.values())):
        raise _impossible(path, "visits", "counts by prompt", visits)
    return state


def _impossible(path: Path, key: str, rule: str, got: Any) -> CheckpointError:
    return CheckpointError(f"{path}: {key} must be {rule}, got {got!r:.80}; {REMEDY}")


@contextmanager
def open_checkpoint(folder: Path, state: Mapping[str, Any]) -> Iterator[SavedTensors]:
    """The tensors of the checkpoint that ``state`` was written for.

    Raises CheckpointError for a file that is not whole, or not the one that ``state`` names.
    """
    if "files" not in state:  # of format 1, unsharded
        state = {"files": {TENSORS: state.get("bytes")}}
    named = files_of(state, folder / STATE)
    with ExitStack() as stack:
        opened = {}
        for name, expected in named.items():
            if name != INDEX:
                opened[name] = stack.enter_context(
                    open_tensors(folder / name, owner=OWNER, remedy=REMEDY, framework="pt")
                )
            check_size(folder / name, expected)

        def prove(name: str) -> None:
            check_file(folder / name, named[name])

        if INDEX in named:
            prove(INDEX)
            yield _indexed(folder, opened, prove)
        elif set(named) == {TENSORS}:
            yield _whole(opened, prove)
        else:
            raise _impossible(folder / STATE, "files", f"{TENSORS}, or an index", sorted(named))


def count_rows(shape: Sequence[int]) -> int:
    """How many rows a tensor of this shape is cut into at most; a scalar is one."""
    return shape[0] if shape else 1


def _whole(opened: Mapping[str, Any], prove: Callable[[str], None]) -> SavedTensors:
    file = opened[TENSORS]
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    pieces = {name: [Piece(TENSORS, 0, count_rows(shape))] for name, shape in shapes.items()}
    return SavedTensors(opened, shapes, pieces, prove)


def _indexed(folder: Path, opened: Mapping[str, Any], prove: Callable[[str], None]) -> SavedTensors:
    path = folder / INDEX
    state = files.read_state(path, format_number=FORMAT, oldest=OLDEST, owner=OWNER)
    try:
        index = state["tensors"].items()
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in index}
        pieces = {name: [Piece(*piece) for piece in entry["rows"]] for name, entry in index}
        strangers = {p.file for rows in pieces.values() for p in rows} - opened.keys()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _impossible(path, "tensors", "shape and rows by name", error) from None
    if strangers:
        raise _impossible(path, "tensors", f"rows of the files of {STATE}", sorted(strangers))
    return SavedTensors(opened, shapes, pieces, prove)
