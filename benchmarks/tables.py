"""Markdown tables of experiments: mean and spread over seeds, never a number without its n."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alphagrpo.eval.paired import PairedDifference
from alphagrpo.report.cells import ABSENT, interval_cell
from alphagrpo.types import SORTS

PLAIN, THOUGHT = SORTS
Pair = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Two results of the same seed: the one that should be above, the one that should be below."""


def lookup(result: Mapping[str, Any], *path: str) -> Any:
    """What is at ``path`` of a nested mapping, or None."""
    node: Any = result
    for part in path:
        if not isinstance(node, Mapping) or node.get(part) is None:
            return None
        node = node[part]
    return node


def at(result: Mapping[str, Any], *path: str) -> float | None:
    """The number at ``path`` of a nested mapping, or None."""
    number = lookup(result, *path)
    return None if number is None else float(number)


def same_seed(above: Sequence[Mapping[str, Any]], below: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Results of two rows, one pair per seed that both have."""
    by_seed = {result["seed"]: result for result in below}
    return [(result, by_seed[result["seed"]]) for result in above if result["seed"] in by_seed]


def differences(pairs: Iterable[Pair], above: Sequence[str], below: Sequence[str]) -> list[float]:
    """Difference of two numbers, by their paths, of each pair that has both."""
    sides = [(at(one, *above), at(other, *below)) for one, other in pairs]
    return [a - b for a, b in sides if a is not None and b is not None]


def spread(values: Sequence[float | None], *, percent: bool = True, digits: int = 1) -> str:
    """``mean ± standard deviation`` over seeds; one seed alone has no spread to show."""
    known = [value for value in values if value is not None]
    if not known:
        return ABSENT
    factor = 100.0 if percent else 1.0
    mean = factor * statistics.fmean(known)
    if len(known) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {factor * statistics.stdev(known):.{digits}f}"


def median_range(values: Sequence[float | None], *, digits: int = 3, sign: str = "") -> str:
    """``median (least to largest)`` over seeds; one seed alone has no range to show."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return ABSENT
    figures = (statistics.median(known), known[0], known[-1])
    # Zero is added because a small negative number rounds to -0.
    median, low, high = (f"{round(value, digits) + 0.0:{sign}.{digits}f}" for value in figures)
    return median if len(known) == 1 else f"{median} ({low} to {high})"


def interval(difference: PairedDifference | None) -> str:
    """``low to high`` of a paired difference, in points."""
    return ABSENT if difference is None else interval_cell(difference.low, difference.high)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def by_row(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Results of each row, in order of seeds."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for result in sorted(results, key=lambda r: r["seed"]):
        rows.setdefault(result["row"], []).append(result)
    return rows
