"""Files of checkpoints and runs: written whole or not at all, and refused where they are not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeGuard

from blake3 import blake3

from alphagrpo.errors import CheckpointError, DiskFull

PARTIAL_SUFFIX = ".partial"
DIGEST = "digest"
"""Key of a JSON state: BLAKE3 of all its other keys."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What a file system says that has nothing to synchronise of a folder."""


@contextmanager
def replacing(path: Path, nbytes: int | None = None) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes the place of ``path`` when the block has ended.

    Bytes and name are on disk after that. A block that raises leaves what was there before.
    ``nbytes`` is what will be written, for the error.

    Raises DiskFull where the disk, or the user's share of it, has no room.
    """
    # Several processes may write one file: each into a partial one of its own.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    try:
        with needing_room(path, nbytes):
            make_folder(path.parent)
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            partial.unlink()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file so that a reader sees the old or the new one."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, len(data)) as partial:
        partial.write_bytes(data)


@contextmanager
def needing_room(path: Path, nbytes: int | None = None) -> Iterator[None]:
    """Say where a write found no room and what it needed, in one line: DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        needed = "room" if nbytes is None else f"{nbytes:,} bytes"
        raise DiskFull(
            f"writing {path} needs {needed}, {_free(path)} ({error.strerror}); make room there and "
            "go on with --resume: what was written before is whole"
        ) from None


def _free(path: Path) -> str:
    there = next((folder for folder in path.absolute().parents if folder.is_dir()), None)
    try:
        free = shutil.disk_usage(there or path.anchor).free
    except OSError:
        return "the disk has none"
    return f"the disk has {free:,}"


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing; their names are on disk after that."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def remove_partials(*folders: Path) -> None:
    """Remove what killed writers left in these folders; nobody may be writing there."""
    for folder in folders:
        for partial in folder.glob(f".*{PARTIAL_SUFFIX}"):
            partial.unlink()


def sync_folder(path: Path) -> None:
    """Have the names in a folder on disk, so that a machine that loses power keeps them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise
    finally:
        os.close(descriptor)


def write_state(path: Path, content: Mapping[str, Any]) -> None:
    """Write the JSON half of a checkpoint with a digest of itself; read it by :func:`read_state`.

    Keys are strings, at any depth. A ``format`` among them numbers what they mean.
    """
    state = {**content, DIGEST: _digest_of(content)}
    write_atomically(path, json.dumps(state, indent=1, allow_nan=False) + "\n")


def read_state(
    path: Path, *, format_number: int, owner: str, oldest: int | None = None
) -> dict[str, Any]:
    """The JSON half of a checkpoint, which is written last and names the format it is in.

    ``owner`` is what the message says needs it. Formats from ``oldest`` to below ``format_number``
    were written before states had digests, and are taken without.

    Raises CheckpointError where it is missing, no JSON, of another format or not as it was written.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{owner} needs {path.name}, {path} does not exist; it was not finished: resume from "
            "an earlier one"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} must be JSON ({error}); resume from an earlier one"
        ) from None
    got = state.get("format") if isinstance(state, dict) else state
    older = oldest is not None and is_count(got) and oldest <= got < format_number
    if not isinstance(state, dict) or not (got == format_number or older):
        raise CheckpointError(
            f"{path} must be of format {format_number}, got {got!r}; "
            "resume with the release that wrote it"
        )
    found = state.pop(DIGEST, None)
    if not older and found != _digest_of(state):
        raise CheckpointError(
            f"{path} must have the digest that it holds itself, it was changed since it was "
            "written; resume from an earlier one"
        )
    return state


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a JSON value is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _digest_of(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return blake3(text.encode()).hexdigest()
