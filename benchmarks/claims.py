"""The paper's claims as differences between rows of ``benchmarks.method``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alphagrpo.eval.paired import PairedDifference
from alphagrpo.types import SORTS
from benchmarks.outcomes import paired, pooled
from benchmarks.tables import (
    PLAIN,
    THOUGHT,
    differences,
    interval,
    markdown,
    same_seed,
    spread,
)

ALL = "all"
"""Both sorts of prompts together."""
RIGHT = ("all_right",)
GATED, SECOND = (("refined", f"round{number}", "gated", *RIGHT) for number in (1, 2))
LAST = ("refined", "round1", "last")
LAST_RIGHT = (*LAST, *RIGHT)
CLAIMED = """
Differences in points of the figure named, of the same seed and prompts: mean ± standard deviation
over seeds, the 95 % interval (Tango's) of the paired difference over the prompts of all seeds,
which says nothing of other seeds, and in how many seeds it is above 0. "here" is "holds" where the
whole interval and every one of three seeds are above 0, "the opposite" where all are below, and
otherwise "not shown", or only which way the seeds point where there are fewer or no interval is
known. "all" is plain and thought prompts together.
"""
ENOUGH = 3
"""Seeds from which on a claim may be said to hold."""
Side = tuple[str, tuple[str, ...]]
Claim = tuple[str, Side, Side]
"""What is claimed, (row, figure) that should be above, (row, figure) that should be below."""


def of_sorts(
    claim: str,
    rows: tuple[str, str],
    figure: tuple[str, ...],
    than: tuple[str, ...] | None = None,
    *,
    sorts: Sequence[str] = SORTS,
) -> list[Claim]:
    """One claim per sort: ``figure`` of one row is above ``than`` (else the same) of the other."""
    above, below = rows
    return [
        (
            f"{claim}, {sort}",
            (above, ("evaluation", sort, *figure)),
            (below, ("evaluation", sort, *(than or figure))),
        )
        for sort in sorts
    ]


BASE, SRR, TRAINED = ("base", "base"), ("srr", "srr"), ("srr", "base")
"""Rows compared: a policy with itself, before training or after it, or one with the other."""
HELP = "SRR training makes refinements help more often"
HARM = "SRR training makes refinements harm less often"
EVERY = (*SORTS, ALL)
CLAIMS: tuple[Claim, ...] = (
    *of_sorts("RT2I training helps", ("rt2i", "base"), RIGHT),
    *of_sorts("SRR training helps one pass", TRAINED, RIGHT),
    *of_sorts("a gated round helps the untrained policy", BASE, GATED, RIGHT),
    *of_sorts("a gated round helps the trained policy", SRR, GATED, RIGHT, sorts=EVERY),
    *of_sorts("a second gated round helps the untrained policy", BASE, SECOND, GATED, sorts=[ALL]),
    *of_sorts("a second gated round helps the trained policy", SRR, SECOND, GATED, sorts=[ALL]),
    *of_sorts(
        "a round without a gate helps the untrained policy", BASE, LAST_RIGHT, RIGHT, sorts=[ALL]
    ),
    *of_sorts(
        "a round without a gate helps the trained policy", SRR, LAST_RIGHT, RIGHT, sorts=[ALL]
    ),
    *of_sorts(HELP, TRAINED, (*LAST, "improved"), sorts=EVERY),
    *of_sorts(HARM, ("base", "srr"), (*LAST, "harmed"), sorts=EVERY),
    *of_sorts(
        "SRR training makes reflections name real defects",
        TRAINED,
        (*LAST, "named"),
        sorts=[PLAIN],
    ),
    *of_sorts("mixed training beats RT2I alone after one gated round", ("mixed", "rt2i"), GATED),
    *of_sorts("questions beat a holistic grade", ("rt2i", "rt2i-holistic"), RIGHT),
    *of_sorts("confidence beats hard yes or no", ("rt2i", "rt2i-binary"), RIGHT, sorts=[THOUGHT]),
    *of_sorts("quality questions help", ("rt2i", "rt2i-semantic"), RIGHT, sorts=[THOUGHT]),
    *of_sorts(
        "rectification (max) beats none, last of one round",
        ("srr", "srr-fpr-off"),
        LAST_RIGHT,
        sorts=[PLAIN],
    ),
    *of_sorts(
        "rectification (max) beats the group's minimum, last of one round",
        ("srr", "srr-fpr-min"),
        LAST_RIGHT,
        sorts=[PLAIN],
    ),
    (
        "thinking helps prompts that need a thought",
        ("rt2i", ("evaluation", THOUGHT, *RIGHT)),
        ("rt2i-no-thought", ("evaluation", THOUGHT, *RIGHT)),
    ),
    (
        "SRR training transfers to editing",
        ("srr", ("evaluation", "edits", "edit.both")),
        ("base", ("evaluation", "edits", "edit.both")),
    ),
)


def claims_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One line per claim: the difference over the seeds that both sides have."""
    rows = {row: [pooled(result) for result in results] for row, results in rows.items()}
    lines = []
    for claim, (above, path), (below, other) in CLAIMS:
        pairs = same_seed(rows.get(above, []), rows.get(below, []))
        known = differences(pairs, path, other)
        wins = f"{sum(d > 0 for d in known)} of {len(known)}" if known else "not run"
        over_prompts = paired(pairs, path[1:], other[1:])
        lines.append(
            [
                claim,
                f"{above} - {below}",
                spread(known),
                interval(over_prompts),
                wins,
                verdict(known, over_prompts),
            ]
        )
    header = ["claim", "difference", "points", "95 % over prompts", "seeds above 0", "here"]
    return markdown(header, lines)


def verdict(differences: Sequence[float], over_prompts: PairedDifference | None) -> str:
    """What the seeds and the interval say of a claim, by the rule of :data:`CLAIMED`."""
    if not differences:
        return "-"
    rises, falls = (all(sign * d > 0 for d in differences) for sign in (1, -1))
    if over_prompts is None or len(differences) < ENOUGH:
        return "points up" if rises else "points down" if falls else "undecided"
    if rises and over_prompts.low > 0:
        return "holds"
    if falls and over_prompts.high < 0:
        return "the opposite"
    return "not shown"
