"""Sizes and digests of files: how whoever reads a checkpoint knows that it is what was written.

A JSON state proves itself (:func:`alphagrpo.files.write_state`), and names the files beside it with
a size and a digest each: whoever trusts the state can prove the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

from alphagrpo.errors import CheckpointError
from alphagrpo.files import is_count

FILES = "files"
"""Key of a JSON state: its files by name, relative to its own folder."""
REMEDY = "resume from an earlier checkpoint"


class FileDigest(NamedTuple):
    """What a file must be."""

    nbytes: int
    blake3: str | None
    """Hex; None of a checkpoint that was written before files had digests."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON state holds it."""
        return {"bytes": self.nbytes, "blake3": self.blake3}


def digest_file(path: Path) -> FileDigest:
    """Size and digest of a file as it is now. All cores share the work."""
    digest = blake3(max_threads=blake3.AUTO)
    digest.update_mmap(path)
    return FileDigest(path.stat().st_size, digest.hexdigest())


def check_size(path: Path, expected: FileDigest) -> None:
    """Raise CheckpointError unless ``path`` is a file of the right size; reads nothing of it."""
    try:
        got = path.stat().st_size
    except FileNotFoundError:
        raise CheckpointError(
            f"a checkpoint needs {path.name}, {path} does not exist; {REMEDY}"
        ) from None
    if got != expected.nbytes:
        raise CheckpointError(f"{path} must have {expected.nbytes:,} bytes, got {got:,}; {REMEDY}")


def check_file(path: Path, expected: FileDigest) -> None:
    """Raise CheckpointError unless ``path`` is the very file; reads all of it."""
    check_size(path, expected)
    if expected.blake3 is None:
        return
    got = digest_file(path).blake3
    if got != expected.blake3:
        raise CheckpointError(
            f"{path} must have the digest {expected.blake3[:12]}, got {got and got[:12]}: its "
            f"bytes are not those that were written; {REMEDY}"
        )


def files_of(state: Mapping[str, Any], path: Path) -> dict[str, FileDigest]:
    """The files that a JSON state names; ``path`` is where it was read.

    States of before there were digests have sizes alone. Raises CheckpointError for entries that
    cannot be.
    """
    files = state.get(FILES, {})
    if not isinstance(files, Mapping):
        raise CheckpointError(f"{path}: {FILES} must be an object, got {files!r}; {REMEDY}")
    return {name: _entry(name, entry, path) for name, entry in files.items()}


def _entry(name: str, entry: Any, path: Path) -> FileDigest:
    if is_count(entry):
        return FileDigest(entry, None)
    if isinstance(entry, Mapping):
        size, digest = entry.get("bytes"), entry.get("blake3")
        if is_count(size) and isinstance(digest, str):
            return FileDigest(size, digest)
    raise CheckpointError(
        f"{path}: {FILES} must hold bytes and blake3 of {name}, got {entry!r}; {REMEDY}"
    )
