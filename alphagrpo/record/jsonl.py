"""Lines of JSON that a run writes, and errors that name file and line where one is broken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from alphagrpo.errors import ConfigError
from alphagrpo.eval.lines import HeldOutLine
from alphagrpo.files import is_count
from alphagrpo.json_records import from_json

T = TypeVar("T")


def json_lines(documents: Iterable[Mapping[str, Any]]) -> str:
    """The text of a JSON-lines file: one object per line."""
    return "".join(json.dumps(document) + "\n" for document in documents)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a last line that a crash cut short is left out.

    Raises ConfigError, with file and line, where another line is no JSON object.
    """
    return list(read_records(path, dict))


def read_metrics(path: Path, until: int | None = None) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; likewise, and where :func:`check_metrics` objects to one.

    With ``until`` those up to that step: a line that is broken after it is none of them.
    """
    kept: list[dict[str, Any]] = []
    broken: ConfigError | None = None
    for number, line in _lines(path):
        try:
            document = check_metrics(_document(line))
        except ConfigError as error:
            broken = broken or ConfigError(f"{path}, line {number}: {error}")
            continue
        if until is None or document["step"] <= until:
            if broken:
                raise broken
            kept.append(document)
    last = kept[-1]["step"] if kept else 0
    if broken and (until is None or last < until):
        raise broken
    return kept


def read_heldout_lines(path: Path) -> list[HeldOutLine]:
    """The lines that an evaluation wrote, see :mod:`alphagrpo.eval.lines`; likewise."""
    return list(read_records(path, lambda document: from_json(HeldOutLine, document)))


def read_records(path: Path, record: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """What ``record`` makes of each line; ConfigError names the first that it refuses."""
    for number, line in _lines(path):
        try:
            yield record(_document(line))
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None


def line_problems(path: Path, record: Callable[[dict[str, Any]], object]) -> list[str]:
    """What is wrong with a file, a sentence for each line that ``record`` refuses."""
    problems = []
    for number, line in _lines(path):
        try:
            record(_document(line))
        except ConfigError as error:
            problems.append(f"line {number}: {error}")
    return problems


def check_metrics(document: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics; ConfigError unless it is a step and its figures."""
    step = document.get("step")
    if not is_count(step):
        raise ConfigError(
            f"metrics must have the step as a whole number, got {step!r}; put the line right, or "
            "resume from a checkpoint before it"
        )
    for key, value in document.items():
        if value is not None and not isinstance(value, int | float):
            raise ConfigError(
                f"{key} of step {step} must be a number or null, got {value!r:.80}; put the line "
                "right, or resume from a checkpoint before it"
            )
    return document


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Whole lines with their numbers, from 1."""
    if path.is_file():
        *whole, _ = path.read_bytes().split(b"\n")
        yield from enumerate(whole, start=1)


def _document(line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"must be a JSON object ({error}); put the line right from a copy, or remove it"
        ) from None
    if not isinstance(document, dict):
        raise ConfigError(
            f"must be a JSON object, got {document!r:.80}; put the line right from a copy, or "
            "remove it"
        )
    return document
