"""What became of each prompt, one character per prompt, so that two runs can be paired.

An evaluation's figures are means; whether one run is above another is told much better prompt by
prompt. ``outcomes`` keeps that in a result's JSON file (a few hundred characters per figure), under
the same names as the figures of ``evaluation``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alphagrpo.eval.lines import CHAINS, HeldOutLine, Measure, Refinement
from alphagrpo.eval.paired import PairedDifference, mean, paired_difference
from alphagrpo.record.jsonl import read_heldout_lines
from alphagrpo.types import SORTS
from benchmarks.tables import Pair, lookup

UNKNOWN = "-"
BINARY: tuple[Measure, ...] = ("all_right", "strict", "extra")
"""Measures that are true or false of each picture."""


def outcomes(lines: Path) -> dict[str, Any]:
    """Per sort of prompt and figure ``0``, ``1`` or ``-`` (nobody knows) per prompt.

    ``lines`` is what ``alphagrpo evaluate --output`` wrote: one JSON object per held-out prompt, in
    the order of the held-out set.
    """
    records = read_heldout_lines(lines)
    by_sort = {sort: [line for line in records if line.sort == sort] for sort in SORTS}
    return {sort: _sort(members) for sort, members in by_sort.items() if members}


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
    return mean([int(c) for c in node if c != UNKNOWN])


def named_by_defect(results: Iterable[Mapping[str, Any]], sort: str) -> dict[str, list[float]]:
    """Share of reflections that name a defect, one number per result.

    ``extra``: where the draft shows something unasked; ``other``: where it only lacks something.
    """
    shares: dict[str, list[float]] = {"extra": [], "other": []}
    for result in results:
        named = lookup(result, "outcomes", sort, "refined", "round1", "last", "named") or ""
        extra = lookup(result, "outcomes", sort, "extra") or ""
        for key, digit in (("extra", "1"), ("other", "0")):
            some = [n for n, e in zip(named, extra, strict=False) if e == digit and n != UNKNOWN]
            shares[key] += [some.count("1") / len(some)] if some else []
    return shares


def _sort(lines: Sequence[HeldOutLine]) -> dict[str, Any]:
    opinions = [line.opinion for line in lines]
    digits: dict[str, Any] = {name: _digits(opinions, name) for name in BINARY}
    rounds = min(len(line.rounds) for line in lines)
    if rounds:
        digits["refined"] = {
            f"round{index + 1}": {
                chain: _chain([line.rounds[index][chain] for line in lines]) for chain in CHAINS
            }
            for index in range(rounds)
        }
    return digits


def _chain(refinements: Sequence[Refinement]) -> dict[str, str]:
    held = [refinement.held for refinement in refinements]
    digits = {name: _digits(held, name) for name in BINARY}
    return digits | {name: _digits(refinements, name) for name in ("named", "improved", "harmed")}


def _digits(records: Sequence[Any], name: str) -> str:
    values = (getattr(record, name) for record in records)
    return "".join(UNKNOWN if value is None else str(int(value)) for value in values)
