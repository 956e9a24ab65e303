"""The paper's claims as differences between rows of ``benchmarks.method``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alphagrpo.eval.paired import PairedDifference
from benchmarks.outcomes import paired, pooled
from benchmarks.tables import differences, interval, markdown, same_seed, spread

PLAIN, THOUGHT, ALL = (("evaluation", sort) for sort in ("plain", "thought", "all"))
GATED, LAST = ("refined", "round1", "gated"), ("refined", "round1", "last")
SECOND = ("refined", "round2", "gated")
RIGHT = ("all_right",)
CLAIMED = """
Differences in points of the figure named, of the same seed and prompts: mean ± standard deviation
over seeds, the 95 % interval of the paired difference over the prompts of all seeds (which says
nothing of other seeds), and in how many seeds it is above 0. "here" is "holds" where the whole
interval and every one of three seeds are above 0, "the opposite" where all are below, and otherwise
"not shown", or only which way the seeds point where there are fewer or no interval is known.
"all" is plain and thought prompts together.
"""
ENOUGH = 3
"""Seeds from which on a claim may be said to hold."""
Side = tuple[str, tuple[str, ...]]
Claim = tuple[str, Side, Side]
"""What is claimed, (row, figure) that should be above, (row, figure) that should be below."""


def between(claim: str, above: str, below: str, figure: tuple[str, ...]) -> Claim:
    """The same figure of two rows."""
    return claim, (above, figure), (below, figure)


def within(claim: str, row: str, above: tuple[str, ...], below: tuple[str, ...]) -> Claim:
    """Two figures of the same row."""
    return claim, (row, above), (row, below)


PLAIN_RIGHT, THOUGHT_RIGHT = PLAIN + RIGHT, THOUGHT + RIGHT
PLAIN_GATED, THOUGHT_GATED = PLAIN + GATED + RIGHT, THOUGHT + GATED + RIGHT
PLAIN_LAST, ALL_LAST = PLAIN + LAST + RIGHT, ALL + LAST + RIGHT
CLAIMS: tuple[Claim, ...] = (
    between("RT2I training helps, plain", "rt2i", "base", PLAIN_RIGHT),
    between("RT2I training helps, thought", "rt2i", "base", THOUGHT_RIGHT),
    between("SRR training helps one pass, plain", "srr", "base", PLAIN_RIGHT),
    between("SRR training helps one pass, thought", "srr", "base", THOUGHT_RIGHT),
    within("a gated round helps the untrained policy, plain", "base", PLAIN_GATED, PLAIN_RIGHT),
    within(
        "a gated round helps the untrained policy, thought", "base", THOUGHT_GATED, THOUGHT_RIGHT
    ),
    within("a gated round helps the trained policy, plain", "srr", PLAIN_GATED, PLAIN_RIGHT),
    within("a gated round helps the trained policy, thought", "srr", THOUGHT_GATED, THOUGHT_RIGHT),
    within("a gated round helps the trained policy, all", "srr", ALL + GATED + RIGHT, ALL + RIGHT),
    within(
        "a second gated round helps the untrained policy, all",
        "base",
        ALL + SECOND + RIGHT,
        ALL + GATED + RIGHT,
    ),
    within(
        "a second gated round helps the trained policy, all",
        "srr",
        ALL + SECOND + RIGHT,
        ALL + GATED + RIGHT,
    ),
    within("a round without a gate helps the untrained policy, all", "base", ALL_LAST, ALL + RIGHT),
    within("a round without a gate helps the trained policy, all", "srr", ALL_LAST, ALL + RIGHT),
    between(
        "SRR training makes refinements help more often, plain",
        "srr",
        "base",
        (*PLAIN, *LAST, "improved"),
    ),
    between(
        "SRR training makes refinements help more often, thought",
        "srr",
        "base",
        (*THOUGHT, *LAST, "improved"),
    ),
    between(
        "SRR training makes refinements help more often, all",
        "srr",
        "base",
        (*ALL, *LAST, "improved"),
    ),
    between(
        "SRR training makes refinements harm less often, plain",
        "base",
        "srr",
        (*PLAIN, *LAST, "harmed"),
    ),
    between(
        "SRR training makes refinements harm less often, thought",
        "base",
        "srr",
        (*THOUGHT, *LAST, "harmed"),
    ),
    between(
        "SRR training makes refinements harm less often, all",
        "base",
        "srr",
        (*ALL, *LAST, "harmed"),
    ),
    between(
        "SRR training makes reflections name real defects, plain",
        "srr",
        "base",
        (*PLAIN, *LAST, "named"),
    ),
    between(
        "mixed training beats RT2I alone after one gated round, plain", "mixed", "rt2i", PLAIN_GATED
    ),
    between(
        "mixed training beats RT2I alone after one gated round, thought",
        "mixed",
        "rt2i",
        THOUGHT_GATED,
    ),
    between("questions beat a holistic grade, plain", "rt2i", "rt2i-holistic", PLAIN_RIGHT),
    between("questions beat a holistic grade, thought", "rt2i", "rt2i-holistic", THOUGHT_RIGHT),
    between("confidence beats hard yes or no, thought", "rt2i", "rt2i-binary", THOUGHT_RIGHT),
    between("quality questions help, thought", "rt2i", "rt2i-semantic", THOUGHT_RIGHT),
    between(
        "rectification (max) beats none, last of one round, plain", "srr", "srr-fpr-off", PLAIN_LAST
    ),
    between(
        "rectification (max) beats the group's minimum, last of one round, plain",
        "srr",
        "srr-fpr-min",
        PLAIN_LAST,
    ),
    between("thinking helps prompts that need a thought", "rt2i", "rt2i-no-thought", THOUGHT_RIGHT),
    between(
        "SRR training transfers to editing", "srr", "base", ("evaluation", "edits", "edit.both")
    ),
)


def claims_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One line per claim: the difference over the seeds that both sides have."""
    rows = {row: [pooled(result) for result in found] for row, found in rows.items()}
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
