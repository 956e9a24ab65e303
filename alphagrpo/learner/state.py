"""A learner on disk: tensors as safetensors, the rest as JSON, never pickle.

Every file has a digest in the JSON file, which is written last and has one of itself. A learner
that holds its parameters whole writes one file of tensors. Ranks that hold shards write one each,
with their rows, and the first an index of which rows lie in which file; any number of ranks can
restore either.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from alphagrpo.digests import FILES, FileDigest, digest_file
from alphagrpo.errors import CheckpointError
from alphagrpo.files import make_folder, needing_room, replacing, write_state
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.learner.sharding import Shards
from alphagrpo.policy.checkpoint import (
    FORMAT,
    INDEX,
    STATE,
    TENSORS,
    Piece,
    count_rows,
    open_checkpoint,
    read_state,
    require_finite,
    require_masters,
)


def save_learner(learner: GRPOLearner, folder: str | Path) -> None:
    """Write parameters, AdamW moments, step, version and trained visits into ``folder``.

    The JSON file is written last and has the other files' digests: a folder with it is whole. Where
    parameters are sharded all ranks call this, with one folder that all of them see.

    Raises:
        CheckpointError: a weight or a moment is not finite, or another rank could not write.
        DiskFull: there is no room.
    """
    folder, shards = Path(folder), learner.optimizer.shards
    first = shards is None or shards.rank == 0
    if first:
        with needing_room(folder):
            make_folder(folder)
        (folder / STATE).unlink(missing_ok=True)
        for older in (*folder.glob("learner*.safetensors"), folder / INDEX):
            older.unlink(missing_ok=True)
    digests = _write_whole(learner, folder) if shards is None else _write(learner, folder, shards)
    if first:
        state = {
            "format": FORMAT,
            "step": learner.step,
            "version": learner.version,
            "visits": learner.visits,
            FILES: {name: digest.to_json() for name, digest in digests.items()},
        }
        write_state(folder / STATE, state)
    if shards is not None:
        shards.barrier()


def load_learner(learner: GRPOLearner, folder: str | Path) -> int:
    """Restore what :func:`save_learner` wrote; returns the step.

    A rank that holds shards reads its own rows only, however many ranks wrote them.

    Raises:
        CheckpointError: a file is missing or damaged, a value cannot be, or the learner had other
            parameters. Nothing has changed then.
    """
    folder, shards = Path(folder), learner.optimizer.shards
    state = read_state(folder)
    with open_checkpoint(folder, state) as saved:
        require_masters(
            learner.optimizer.shapes,
            saved.shapes,
            "a learner's checkpoint must hold exactly its trainable parameters",
            "resume with the model section the run was started with",
        )
        tensors = {
            name: saved.read(name, None if shards is None else shards.rows(count_rows(shape)))
            for name, shape in saved.shapes.items()
        }
    learner.optimizer.load_state_tensors(tensors)
    learner.step, learner.version = int(state["step"]), int(state["version"])
    learner.visits = {str(name): int(visit) for name, visit in state["visits"].items()}
    learner.mark_exported()
    return learner.step


def _write_whole(learner: GRPOLearner, folder: Path) -> dict[str, FileDigest]:
    return {TENSORS: _write_tensors(folder / TENSORS, learner.optimizer.state_tensors())}


def _write(learner: GRPOLearner, folder: Path, shards: Shards) -> dict[str, FileDigest]:
    """This rank's file, and the first's index; the digests of all, which only the first needs."""
    shards.barrier()  # what was there before is gone
    tensors = learner.optimizer.state_tensors()
    own = {name: t for name, t in tensors.items() if t.ndim or shards.rank == 0}
    failure: Exception | None = None
    try:
        written = _write_tensors(folder / _file(shards.rank, shards), own)
    except Exception as error:  # told to the others first, who would wait for this rank
        failure, written = error, FileDigest(-1, "")
    digests = _exchanged(written, shards)
    if failure is not None:
        raise failure
    for rank, digest in enumerate(digests):
        if digest.nbytes < 0:
            raise CheckpointError(
                f"all ranks must write their share of {folder}, rank {rank} could not; its own "
                "error says why"
            )
    if shards.rank > 0:
        return {}
    names = [_file(rank, shards) for rank in range(shards.ranks)]
    index = {"format": FORMAT, "tensors": _index(tensors, learner.optimizer.shapes, shards)}
    write_state(folder / INDEX, index)
    return {**dict(zip(names, digests, strict=True)), INDEX: digest_file(folder / INDEX)}


def _exchanged(own: FileDigest, shards: Shards) -> list[FileDigest]:
    """Of every rank's file, in order of ranks: each has read its own only."""
    rows = shards.exchange([own.nbytes, *bytes.fromhex(own.blake3 or "").ljust(32, b"\0")])
    return [FileDigest(size, bytes(digest).hex()) for size, *digest in rows]


def _index(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], shards: Shards
) -> dict[str, dict[str, object]]:
    """Of each tensor its type, its whole shape, and ``[file, first row, end]`` of its pieces."""
    index: dict[str, dict[str, object]] = {}
    for name, tensor in tensors.items():
        parameter = name.partition("/")[2]
        shape = shapes[parameter] if tensor.ndim else ()
        rows = [
            Piece(_file(rank, shards), *shards.rows(count_rows(shape), rank))
            for rank in range(shards.ranks)
        ]
        dtype = str(tensor.dtype).removeprefix("torch.")
        held = [piece for piece in rows if piece.start < piece.stop]
        index[name] = {"dtype": dtype, "shape": shape, "rows": held}
    return index


def _file(rank: int, shards: Shards) -> str:
    stem, _, ending = TENSORS.partition(".")
    return f"{stem}-{rank + 1:05}-of-{shards.ranks:05}.{ending}"


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileDigest:
    """Write a file of tensors; returns what it must be from now on."""
    for name, tensor in tensors.items():
        require_finite(name, tensor)
    with replacing(path, sum(tensor.nbytes for tensor in tensors.values())) as partial:
        try:
            save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, partial)
        except SafetensorError as error:
            # Its own errors have no number: an error of the system is in the text alone.
            if f"os error {errno.ENOSPC}" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
            raise
        return digest_file(partial)
