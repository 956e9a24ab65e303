"""The paper's claims as differences between rows of ``benchmarks.method``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.outcomes import paired
from benchmarks.tables import at, interval, markdown, spread

PLAIN, THOUGHT = ("evaluation", "plain"), ("evaluation", "thought")
GATED, LAST = ("refined", "round1", "gated"), ("refined", "round1", "last")
RIGHT = ("all_right",)
CLAIMED = """
Differences in points of the figure named, of the same seed and prompts: mean ± standard deviation
over seeds, the 95 % interval of the paired difference over the prompts of all seeds (which says
nothing of other seeds), and in how many seeds it is above 0. One seed shows a direction at most.
"""
Side = tuple[str, tuple[str, ...]]
CLAIMS: tuple[tuple[str, Side, Side], ...] = (
    # claim, (row, figure) that should be above, (row, figure) that should be below
    ("RT2I training helps, plain", ("rt2i", PLAIN + RIGHT), ("base", PLAIN + RIGHT)),
    ("RT2I training helps, thought", ("rt2i", THOUGHT + RIGHT), ("base", THOUGHT + RIGHT)),
    ("SRR training helps one pass, plain", ("srr", PLAIN + RIGHT), ("base", PLAIN + RIGHT)),
    ("SRR training helps one pass, thought", ("srr", THOUGHT + RIGHT), ("base", THOUGHT + RIGHT)),
    (
        "a gated round helps the untrained policy, plain",
        ("base", PLAIN + GATED + RIGHT),
        ("base", PLAIN + RIGHT),
    ),
    (
        "a gated round helps the untrained policy, thought",
        ("base", THOUGHT + GATED + RIGHT),
        ("base", THOUGHT + RIGHT),
    ),
    (
        "a gated round helps the trained policy, plain",
        ("srr", PLAIN + GATED + RIGHT),
        ("srr", PLAIN + RIGHT),
    ),
    (
        "a gated round helps the trained policy, thought",
        ("srr", THOUGHT + GATED + RIGHT),
        ("srr", THOUGHT + RIGHT),
    ),
    (
        "SRR training makes refinements help more often, plain",
        ("srr", (*PLAIN, *LAST, "improved")),
        ("base", (*PLAIN, *LAST, "improved")),
    ),
    (
        "SRR training makes refinements harm less often, plain",
        ("base", (*PLAIN, *LAST, "harmed")),
        ("srr", (*PLAIN, *LAST, "harmed")),
    ),
    (
        "SRR training makes reflections name real defects, plain",
        ("srr", (*PLAIN, *LAST, "named")),
        ("base", (*PLAIN, *LAST, "named")),
    ),
    (
        "mixed training beats RT2I alone after one gated round, plain",
        ("mixed", PLAIN + GATED + RIGHT),
        ("rt2i", PLAIN + GATED + RIGHT),
    ),
    (
        "mixed training beats RT2I alone after one gated round, thought",
        ("mixed", THOUGHT + GATED + RIGHT),
        ("rt2i", THOUGHT + GATED + RIGHT),
    ),
    (
        "questions beat a holistic grade, plain",
        ("rt2i", PLAIN + RIGHT),
        ("rt2i-holistic", PLAIN + RIGHT),
    ),
    (
        "questions beat a holistic grade, thought",
        ("rt2i", THOUGHT + RIGHT),
        ("rt2i-holistic", THOUGHT + RIGHT),
    ),
    (
        "confidence beats hard yes or no, thought",
        ("rt2i", THOUGHT + RIGHT),
        ("rt2i-binary", THOUGHT + RIGHT),
    ),
    (
        "quality questions help, thought",
        ("rt2i", THOUGHT + RIGHT),
        ("rt2i-semantic", THOUGHT + RIGHT),
    ),
    (
        "rectification (max) beats none, last of one round, plain",
        ("srr", PLAIN + LAST + RIGHT),
        ("srr-fpr-off", PLAIN + LAST + RIGHT),
    ),
    (
        "rectification (max) beats the group's minimum, last of one round, plain",
        ("srr", PLAIN + LAST + RIGHT),
        ("srr-fpr-min", PLAIN + LAST + RIGHT),
    ),
    (
        "thinking helps prompts that need a thought",
        ("rt2i", THOUGHT + RIGHT),
        ("rt2i-no-thought", THOUGHT + RIGHT),
    ),
    (
        "SRR training transfers to editing",
        ("srr", ("evaluation", "edits", "edit.both")),
        ("base", ("evaluation", "edits", "edit.both")),
    ),
)


def claims_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One line per claim: the difference over the seeds that both sides have."""
    lines = []
    for claim, (above, path), (below, other) in CLAIMS:
        theirs = {r["seed"]: r for r in rows.get(below, [])}
        pairs = [(r, theirs[r["seed"]]) for r in rows.get(above, []) if r["seed"] in theirs]
        sides = [(at(one, *path), at(two, *other)) for one, two in pairs]
        known = [a - b for a, b in sides if a is not None and b is not None]
        wins = f"{sum(d > 0 for d in known)} of {len(known)}" if known else "not run"
        over_prompts = interval(paired(pairs, path[1:], other[1:]))
        lines.append([claim, f"{above} - {below}", spread(known), over_prompts, wins])
    header = ["claim", "difference", "points", "95 % over prompts", "seeds above 0"]
    return markdown(header, lines)
