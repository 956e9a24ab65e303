"""Markdown tables of experiments: mean and spread over seeds, never a number without its n."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from alphagrpo.eval.paired import PairedDifference


def at(result: Mapping[str, Any], *path: str) -> float | None:
    """The number at ``path`` of a nested mapping, or None."""
    node: Any = result
    for part in path:
        if not isinstance(node, Mapping) or node.get(part) is None:
            return None
        node = node[part]
    return float(node)


def spread(values: Sequence[float | None], *, percent: bool = True) -> str:
    """``mean ± standard deviation`` over seeds; one seed alone has no spread to show."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    factor, digits = (100.0, 1) if percent else (1.0, 3)
    mean = factor * statistics.fmean(known)
    if len(known) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {factor * statistics.stdev(known):.{digits}f}"


def interval(difference: PairedDifference | None) -> str:
    """``low to high`` of a paired difference, in points."""
    if difference is None:
        return "-"
    return f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def by_row(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Results of each row, in order of seeds."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for result in sorted(results, key=lambda r: r["seed"]):
        found.setdefault(result["row"], []).append(result)
    return found
