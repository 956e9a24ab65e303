"""Whether a run folder is whole: what ``alphagrpo doctor RUN`` looks at, and what it finds.

Everything is read, nothing is changed. A run may go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa

from alphagrpo.config import load_config
from alphagrpo.errors import CheckpointError, ConfigError, MeshError
from alphagrpo.eval.lines import HeldOutLine
from alphagrpo.files import PARTIAL_SUFFIX
from alphagrpo.images import decode_image, image_hash
from alphagrpo.json_records import from_json
from alphagrpo.record.checkpoints import DAMAGED, LATER, Checkpoints
from alphagrpo.record.finding import Finding
from alphagrpo.record.folder import FOLDERS, RunFolder
from alphagrpo.record.jsonl import check_metrics, line_problems
from alphagrpo.record.ledger import read_ledger
from alphagrpo.record.manifest import check_checkpoint, is_unfinished, step_of

PHASES = ("before", "probe", "after")
FROM_COPY = "put it back from a copy, or resume from a checkpoint before it: --resume STEP"


def inspect_run(folder: RunFolder) -> list[Finding]:
    """Config, metrics, ledger, checkpoints, evaluations and pictures of a run, in this order."""
    checks: tuple[Callable[[RunFolder], Iterator[Finding]], ...] = (
        _config,
        _metrics,
        _summary,
        _ledger,
        _checkpoints,
        _evaluations,
        _pictures,
        _partials,
    )
    return [finding for check in checks for finding in check(folder)]


def _config(folder: RunFolder) -> Iterator[Finding]:
    try:
        load_config(folder.path / "config.yaml")
    except ConfigError as error:
        yield Finding("config.yaml", str(error), "bad", "put it back: resuming writes it again")
    else:
        yield Finding("config.yaml", "valid", "ok")


def _metrics(folder: RunFolder) -> Iterator[Finding]:
    path, steps = folder.metrics_path, []

    def line(document: dict[str, Any]) -> None:
        steps.append(int(check_metrics(document)["step"]))

    broken = line_problems(path, line)
    for problem in broken:
        yield Finding(path.name, problem, "bad", FROM_COPY)
    if path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
        yield Finding(path.name, "the last line was cut short", "note", "resuming removes it")
    missing = sorted({*range(1, max(steps, default=0) + 1)} - set(steps)) if not broken else []
    if missing:
        yield Finding(path.name, f"no line of steps {_some(missing)}", "bad", FROM_COPY)
    if steps != sorted(set(steps)):
        again = [step for last, step in pairwise(steps) if step <= last]
        yield Finding(path.name, f"steps {_some(again)} out of order or twice", "bad", FROM_COPY)
    yield Finding(path.name, f"{len(steps)} steps", "ok")


def _summary(folder: RunFolder) -> Iterator[Finding]:
    try:
        folder.summary()
    except ConfigError as error:
        yield Finding("summary.json", str(error), "bad", "remove it: a resumed run writes it again")


def _ledger(folder: RunFolder) -> Iterator[Finding]:
    steps = folder.ledger_steps()
    for path in (folder.path / "ledger" / f"step-{step:06d}.parquet" for step in steps):
        try:
            others = {row["step"] for row in read_ledger(path, ("step",))} - {step_of(path)}
        except (pa.ArrowException, OSError, KeyError) as error:
            yield Finding(f"ledger/{path.name}", _first_line(error), "bad", FROM_COPY)
        else:
            if others:
                yield Finding(
                    f"ledger/{path.name}", f"holds steps {_some(sorted(others))}", "bad", FROM_COPY
                )
    measured = _steps_of_metrics(folder)
    if measured is not None:
        if lacking := sorted(measured - set(steps)):
            yield Finding("ledger", f"nothing of steps {_some(lacking)}", "bad", FROM_COPY)
        if ahead := sorted(set(steps) - measured):
            yield Finding(
                "ledger", f"steps {_some(ahead)} have no metrics", "note",
                "such a step was cut short, or ended the run; resuming takes it again",
            )  # fmt: skip
    yield Finding("ledger", f"{len(steps)} steps", "ok")


def _checkpoints(folder: RunFolder) -> Iterator[Finding]:
    checkpoints, sound = Checkpoints(folder.checkpoints_path), 0
    measured = _steps_of_metrics(folder)
    last = None if measured is None else max(measured, default=0)
    for path in checkpoints.folders():
        name = f"checkpoints/{path.name}"
        if is_unfinished(path):
            yield Finding(name, "unfinished", "note", "it is being written, or resuming removes it")
            continue
        try:
            proved = check_checkpoint(path)
        except (CheckpointError, OSError) as error:
            yield Finding(name, str(error), "bad", "--resume passes it over and moves it aside")
            continue
        sound += 1
        if last is not None and step_of(path) > last:
            yield Finding(
                name,
                f"metrics end with step {last}",
                "bad",
                f"go on from an older one: {FROM_COPY}",
            )
        elif proved:
            yield Finding(name, "whole", "ok")
        else:
            yield Finding(
                name, "without digests, sizes are right", "note", "newer checkpoints have digests"
            )
    if not sound and (last or checkpoints.folders()):
        yield Finding(
            "checkpoints", "none is whole", "bad", "put one back, or begin again with --resume 0"
        )
    for aside in (DAMAGED, LATER):
        if kept := sorted((folder.checkpoints_path / aside).glob("*")):
            names = ", ".join(path.name for path in kept)
            yield Finding(f"checkpoints/{aside}", names, "note", "remove what you do not need")


def _evaluations(folder: RunFolder) -> Iterator[Finding]:
    for phase in PHASES:
        path = folder.evaluation_path(phase)
        problems = line_problems(path, partial(from_json, HeldOutLine))
        for problem in problems:
            yield Finding(
                f"evaluation/{path.name}", problem, "bad", "put it back, or remove the file"
            )
        if path.is_file() and not problems:
            lines = len(folder.evaluation(phase))
            yield Finding(f"evaluation/{path.name}", f"{lines} prompts", "ok")


def _pictures(folder: RunFolder) -> Iterator[Finding]:
    paths = sorted((folder.path / "images").glob("*.png"))
    for path in paths:
        try:
            good = image_hash(decode_image(path.read_bytes())) == path.stem
        except (MeshError, OSError):
            good = False
        if not good:
            yield Finding(
                f"images/{path.name}", "is not the picture of that name", "bad",
                "put it back, or remove it: the report leaves it out",
            )  # fmt: skip
    for step in folder.ledger_steps():
        for group, names in _pictures_of(folder, step).items():
            missing = sorted(name for name in names if name and not folder.has_picture(name))
            # Of a group all pictures are kept, or none.
            if missing and len(missing) < len([name for name in names if name]):
                yield Finding(
                    f"images of step {step}", f"group {group} lacks {_some(missing)}", "bad",
                    "put them back from a copy",
                )  # fmt: skip
    yield Finding("images", f"{len(paths)} pictures", "ok")


def _pictures_of(folder: RunFolder, step: int) -> dict[int, set[str]]:
    try:
        return folder.ledger_pictures(step)
    except (pa.ArrowException, OSError, KeyError):
        return {}  # told of already


def _partials(folder: RunFolder) -> Iterator[Finding]:
    places = (folder.path, *(folder.path / name for name in FOLDERS))
    left = [path for place in places for path in place.glob(f".*{PARTIAL_SUFFIX}")]
    if left:
        yield Finding(
            "partial files", _some([path.name for path in left]), "note",
            "a killed writer left them, or one is at work; resuming removes them",
        )  # fmt: skip


def _steps_of_metrics(folder: RunFolder) -> set[int] | None:
    """None where a line is broken, which is told by itself."""
    try:
        return {line["step"] for line in folder.metrics()}
    except ConfigError:
        return None


def _some(values: list[Any], most: int = 5) -> str:
    shown = ", ".join(str(value)[:80] for value in values[:most])
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown


def _first_line(error: Exception) -> str:
    return f"cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
