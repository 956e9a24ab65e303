"""What became of each prompt, one character per prompt, so that two runs can be paired.

An evaluation's figures are means; whether one run is above another is told much better prompt by
prompt. ``outcomes`` keeps that in a result's JSON file (a few hundred characters per figure), under
the same names as the figures of ``evaluation``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alphagrpo.eval.paired import PairedDifference, paired_difference
from alphagrpo.eval.rounds import moved
from benchmarks.tables import Pair, lookup

UNKNOWN = "-"
HELD = ("all_right", "strict", "extra")


def outcomes(lines: Path) -> dict[str, Any]:
    """Per sort of prompt and figure ``0``, ``1`` or ``-`` (nobody knows) per prompt.

    ``lines`` is what ``alphagrpo evaluate --output`` wrote: one JSON object per held-out prompt, in
    the order of the held-out set.
    """
    sorts: dict[str, list[dict[str, Any]]] = {}
    for text in lines.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if "oracle" in line:
            sorts.setdefault(line["sort"], []).append(line)
    return {sort: _sort(found) for sort, found in sorts.items()}


def paired(
    pairs: Iterable[Pair], above: Sequence[str], below: Sequence[str]
) -> PairedDifference | None:
    """Difference of two figures over all prompts of all ``pairs`` of results (above, below).

    ``above`` and ``below`` are the figures' paths, such as ``("plain", "all_right")``. Its interval
    is over prompts, with the seeds as they are: it says nothing of other seeds. None where a result
    does not know one of its outcomes, since a mean over the rest would be another figure.
    """
    old: list[float] = []
    new: list[float] = []
    for one, other in pairs:
        ours = lookup(one, "outcomes", *above) or ""
        theirs = lookup(other, "outcomes", *below) or ""
        if not ours or len(ours) != len(theirs) or UNKNOWN in ours + theirs:
            return None
        new += [float(c) for c in ours]
        old += [float(c) for c in theirs]
    return paired_difference(old, new) if old else None


def pooled(result: Mapping[str, Any]) -> dict[str, Any]:
    """``result`` with a sort ``all``: the outcomes of its sorts in a row, and their shares."""
    sorts = result.get("outcomes") or {}
    if len(sorts) < 2:
        return dict(result)
    together = _concatenated(list(sorts.values()))
    return {
        **result,
        "outcomes": {**sorts, "all": together},
        "evaluation": {**result["evaluation"], "all": _shares(together)},
    }


def _concatenated(nodes: Sequence[Any]) -> Any:
    if isinstance(nodes[0], str):
        return "".join(nodes)
    return {key: _concatenated([n[key] for n in nodes]) for key in nodes[0]}


def _shares(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _shares(value) for key, value in node.items()}
    known = [int(c) for c in node if c != UNKNOWN]
    return sum(known) / len(known) if known else None


def named_by_defect(results: Iterable[Mapping[str, Any]], sort: str) -> dict[str, list[float]]:
    """Share of reflections that name a defect, one number per result.

    ``extra``: where the draft shows something unasked; ``other``: where it only lacks something.
    """
    found: dict[str, list[float]] = {"extra": [], "other": []}
    for result in results:
        named = lookup(result, "outcomes", sort, "refined", "round1", "last", "named") or ""
        extra = lookup(result, "outcomes", sort, "extra") or ""
        for key, wanted in (("extra", "1"), ("other", "0")):
            some = [n for n, e in zip(named, extra, strict=False) if e == wanted and n != UNKNOWN]
            found[key] += [some.count("1") / len(some)] if some else []
    return found


def _sort(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {key: _text(line[key] for line in lines) for key in HELD}
    rounds = min(len(line.get("rounds", ())) for line in lines)
    if rounds:
        found["refined"] = {
            f"round{index + 1}": {
                chain: _chain([line["rounds"][index][chain] for line in lines])
                for chain in lines[0]["rounds"][index]
            }
            for index in range(rounds)
        }
    return found


def _chain(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found = {key: _text(entry[key] for entry in entries) for key in (*HELD, "named")}
    moves = [moved(entry) for entry in entries]
    return found | {key: _text(move[key] for move in moves) for key in ("improved", "harmed")}


def _text(values: Iterable[bool | None]) -> str:
    return "".join(UNKNOWN if value is None else str(int(value)) for value in values)
