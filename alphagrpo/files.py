"""Files of checkpoints and runs: written whole or not at all, and refused where they are not."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alphagrpo.errors import CheckpointError

PARTIAL_SUFFIX = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes the place of ``path`` when the block has ended.

    The bytes are on disk before that. A block that raises leaves what was there before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may write one file: each into a partial one of its own.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file so that a reader sees the old or the new one."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def read_state(path: Path, *, format_number: int, owner: str) -> dict[str, Any]:
    """The JSON half of a checkpoint, which is written last and names the format it is in.

    Raises CheckpointError where it is missing, no JSON or of another format; ``owner`` is what the
    message says needs it.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{owner} needs {path.name}, {path} does not exist; it was not finished: resume from "
            "an earlier one"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} must be JSON ({error}); resume from an earlier one"
        ) from None
    if not isinstance(state, dict) or state.get("format") != format_number:
        raise CheckpointError(
            f"{path} must be of format {format_number}, got "
            f"{state.get('format') if isinstance(state, dict) else state!r}; "
            "resume with the release that wrote it"
        )
    return state
