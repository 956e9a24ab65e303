"""Whether a run's checkpoint is whole: ``complete.json`` has size and digest of all other files.

It is written last, and proves itself. Nothing here reads tensors, or needs torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alphagrpo.digests import FILES, FileDigest, check_file, check_size, digest_file, files_of
from alphagrpo.errors import CheckpointError
from alphagrpo.files import PARTIAL_SUFFIX, read_state, sync_folder, write_state

STEP_PREFIX = "step-"
COMPLETE, UNFINISHED = "complete.json", "unfinished"
"""Of the two a checkpoint has the first when everything was written to it, the second before."""
LEARNER_STATE = "learner.json"
FORMAT, OLDEST = 2, 1
"""Of ``complete.json`` and ``learner.json``. Format 1 had sizes, in ``learner.json`` alone."""
OLD_MARKER = re.compile(rb'\{"step": \d+\}')


def write_manifest(path: Path, step: int) -> None:
    """Mark the checkpoint ``path`` as whole, with all that is in it on disk.

    What its JSON states name has been read by whoever wrote them, and is not read again.

    Raises:
        CheckpointError: a file that a state names is not here, or of another size.
    """
    files = {name: digest.to_json() for name, digest in _digests_below(path)}
    for folder in (*(inner for inner in path.rglob("*") if inner.is_dir()), path, path.parent):
        sync_folder(folder)
    write_state(path / COMPLETE, {"format": FORMAT, "step": step, FILES: files})


def check_checkpoint(path: Path, *, sizes_only: bool = False) -> bool:
    """Raise CheckpointError unless every file of a checkpoint is what was written.

    Returns whether digests say so: checkpoints of earlier versions have sizes alone.
    """
    files = _files(path)
    check = check_size if sizes_only else check_file
    for name, expected in files.items():
        check(path / name, expected)
    return all(expected.blake3 for expected in files.values()) and bool(files)


def problem(path: Path, *, sizes_only: bool = False) -> str:
    """What is wrong with a checkpoint; empty where nothing is."""
    try:
        check_checkpoint(path, sizes_only=sizes_only)
    except (CheckpointError, OSError) as error:
        return str(error)
    return ""


def is_complete(path: Path) -> bool:
    """Whether everything was written to a checkpoint; its files are not looked at."""
    return (path / COMPLETE).is_file()


def is_unfinished(path: Path) -> bool:
    """Whether a checkpoint is one that a process had begun which was killed."""
    return (path / UNFINISHED).is_file() and not is_complete(path)


def step_of(path: Path) -> int:
    """The step in a name such as ``step-000040`` or ``step-000040.parquet``."""
    return int(path.name.split(".")[0].removeprefix(STEP_PREFIX))


def find_learner(checkpoint: Path) -> Path | None:
    """The learner's folder of a checkpoint: the folder itself, or the one inside it; or None."""
    folders = (checkpoint, checkpoint / "learner")
    return next((folder for folder in folders if (folder / LEARNER_STATE).is_file()), None)


def _files(path: Path) -> dict[str, FileDigest]:
    """What ``complete.json`` names; CheckpointError where it is not of this folder."""
    marker = path / COMPLETE
    state = _read_marker(marker)
    if state.get("step") != step_of(path):
        raise CheckpointError(
            f"{marker}: step must be {step_of(path)}, as the folder says, got "
            f"{state.get('step')!r}; resume from an earlier checkpoint"
        )
    return files_of(state, marker) if FILES in state else _undigested(path)


def _read_marker(marker: Path) -> dict[str, Any]:
    text = marker.read_bytes() if marker.is_file() else b""
    if OLD_MARKER.fullmatch(text):
        old: dict[str, Any] = json.loads(text)
        return old
    return read_state(marker, format_number=FORMAT, owner="a checkpoint")


def _undigested(path: Path) -> dict[str, FileDigest]:
    """The sizes that a learner's state of format 1 names."""
    owner = find_learner(path)
    if owner is None:
        return {}
    marker = owner / LEARNER_STATE
    state = read_state(marker, format_number=FORMAT, oldest=OLDEST, owner="a learner's checkpoint")
    sizes = state.get(FILES) or {"learner.safetensors": state.get("bytes")}
    return _below(owner.relative_to(path), files_of({FILES: sizes}, marker))


def _digests_below(path: Path) -> Iterator[tuple[str, FileDigest]]:
    files = {
        str(file.relative_to(path)): file
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != UNFINISHED and not file.name.endswith(PARTIAL_SUFFIX)
    }
    known: dict[str, FileDigest] = {}
    for name, file in files.items():
        if file.suffix == ".json":
            known |= _below(Path(name).parent, _named_by(file))
    for name, digest in known.items():
        check_size(path / name, digest)
    for name, file in files.items():
        yield name, known.get(name) or digest_file(file)


def _below(folder: Path, files: Mapping[str, FileDigest]) -> dict[str, FileDigest]:
    return {str(folder / name): digest for name, digest in files.items()}


def _named_by(file: Path) -> Mapping[str, FileDigest]:
    document = json.loads(file.read_text(encoding="utf-8"))
    return files_of(document, file) if isinstance(document, dict) else {}
