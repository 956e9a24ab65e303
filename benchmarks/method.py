"""The paper's claims in miniature: ``python -m benchmarks.method`` (``make bench-method``).

Every row is trained for the same number of optimizer steps and evaluated by the oracle on held-out
prompts with 0, 1 and 2 inference rounds, with the DVReward gate and without. A few hours in all on
two cores; finished runs are kept in ``benchmarks/results/method`` and not made again. The table is
``benchmarks/results/method.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from alphagrpo.types import SORTS
from benchmarks.claims import CLAIMED, claims_table
from benchmarks.experiments import finish, parser
from benchmarks.outcomes import named_by_defect
from benchmarks.running import Bench, Experiment
from benchmarks.tables import PLAIN, at, by_row, markdown, spread

SEEDS = (1, 2, 3)
STEPS = 30
BENCH = Bench(
    name="method",
    evaluation={"evaluation.num_plain": 192, "evaluation.num_thought": 192, "evaluation.rounds": 2},
    edits=256,
)
EVEN = {"data.thought_share": 0.5}
"""Of every training: rows that learn from other prompts could not be compared."""
MIX = {"task.kind": "mixed", "refinement.share": 0.5}
HOLISTIC = {"reward.program": "holistic"}
NO_THOUGHT = {"task.think": False, "reward.format_bonus": 0.0}

NO_BONUS = {"refinement.format_bonus": 0.0}
"""Of the evaluation's config, which has a section on refining."""

ROWS: dict[str, tuple[str, dict[str, Any], dict[str, Any], Sequence[int]]] = {
    # row: config, changes, changes of training alone, seeds
    "base": ("shapes-srr.yaml", {}, {}, SEEDS),
    "rt2i": ("shapes-rt2i.yaml", {}, {}, SEEDS),
    "srr": ("shapes-srr.yaml", {}, {}, SEEDS),
    "mixed": ("shapes-srr.yaml", {}, MIX, SEEDS),
    "rt2i-holistic": ("shapes-rt2i.yaml", {}, HOLISTIC, SEEDS),
    "rt2i-binary": ("shapes-rt2i.yaml", {}, {"reward.program": "dvreward_binary"}, SEEDS[:1]),
    "rt2i-semantic": ("shapes-rt2i.yaml", {}, {"reward.kinds": "semantic"}, SEEDS[:1]),
    "srr-fpr-off": ("shapes-srr.yaml", {}, {"refinement.rectification": "off"}, SEEDS[:1]),
    "srr-fpr-min": ("shapes-srr.yaml", {}, {"refinement.rectification": "group_min"}, SEEDS[:1]),
    "rt2i-no-thought": ("shapes-rt2i.yaml", NO_THOUGHT, {}, SEEDS[:1]),
}


def experiments(steps: int, only: Sequence[str] | None = None) -> list[Experiment]:
    """All runs, the first seed of every row before the second of any."""
    runs = []
    for index in range(len(SEEDS)):
        for row, (config, changes, training, seeds) in ROWS.items():
            if index >= len(seeds) or (only and row not in only):
                continue
            runs.append(
                Experiment(
                    row=row,
                    seed=seeds[index],
                    config=config,
                    changes=changes,
                    training={**EVEN, **training},
                    evaluation={} if changes.get("task.think", True) else NO_BONUS,
                    steps=0 if row == "base" else steps,
                )
            )
    return runs


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The page: what was run, the tables, what they say of the claims."""
    rows = by_row(results)
    parts = ["# The method in miniature", INTRODUCTION.strip()]
    for sort in SORTS:
        parts += [
            f"## Held-out {sort} prompts, all right by the oracle, in %",
            accuracy(rows, sort),
        ]
    for sort in SORTS:
        parts += [f"## What one refinement does, {sort} prompts, in %", refinements(rows, sort)]
    parts += ["## Reflections naming a defect, plain prompts, in %", named(rows)]
    parts += ["## Editing, never trained, in %", edits(rows)]
    parts += ["## The paper's claims, here", CLAIMED.strip(), claims_table(rows)]
    parts += ["## Runs", run_table(rows)]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """
Made by `make bench-method` (`python -m benchmarks.method`); the results of single runs lie in
`method/`. Mean ± standard deviation over seeds where there are several; a number without ± is one
seed. All rows of one seed are judged on the same held-out prompts with the same seeds. "gated"
keeps the better of two pictures by DVReward, "last" the last one. Training minutes are of several
machines. `rt2i-no-thought` writes no reflections, so that none names a defect.
"""

VARIANTS = (
    ("one pass", ()),
    ("1 round, gated", ("refined", "round1", "gated")),
    ("1 round, last", ("refined", "round1", "last")),
    ("2 rounds, gated", ("refined", "round2", "gated")),
    ("2 rounds, last", ("refined", "round2", "last")),
)


def accuracy(rows: Mapping[str, Sequence[Mapping[str, Any]]], sort: str) -> str:
    header = ["row", "seeds", *(name for name, _ in VARIANTS)]
    lines = []
    for row in [name for name in ROWS if name in rows]:
        cells = [
            spread([at(r, "evaluation", sort, *path, "all_right") for r in rows[row]])
            for _, path in VARIANTS
        ]
        lines.append([row, str(len(rows[row])), *cells])
    return markdown(header, lines)


REFINED = (
    ("mended", "wrong pictures made right"),
    ("broken", "right pictures made wrong"),
    ("improved", "more questions right"),
    ("harmed", "fewer questions right"),
    ("named", "reflections naming a defect"),
)


def refinements(rows: Mapping[str, Sequence[Mapping[str, Any]]], sort: str) -> str:
    header = ["row", *(title for _, title in REFINED)]
    path = ("evaluation", sort, "refined", "round1", "last")
    return markdown(
        header,
        [
            [row, *(spread([at(r, *path, key) for r in rows[row]]) for key, _ in REFINED)]
            for row in ROWS
            if row in rows
        ],
    )


def named(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    header = ["row", "of drafts with something unasked", "of other drafts"]
    shares = {row: named_by_defect(rows[row], PLAIN) for row in ROWS if row in rows}
    return markdown(
        header, [[row, spread(s["extra"]), spread(s["other"])] for row, s in shares.items()]
    )


def edits(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    keys = ("edit.followed", "edit.kept", "edit.both")
    return markdown(
        ["row", "followed", "rest kept", "both"],
        [
            [row, *(spread([at(r, "evaluation", "edits", key) for r in rows[row]]) for key in keys)]
            for row in ROWS
            if row in rows
        ],
    )


def run_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines = []
    for row in [name for name in ROWS if name in rows]:
        minutes = [None if (s := at(r, "training_s")) is None else s / 60 for r in rows[row]]
        pictures = [at(r, "samples", "drawn") for r in rows[row]]
        lines.append(
            [
                row,
                str(rows[row][0].get("steps", 0)),
                spread(minutes, percent=False),
                spread(pictures, percent=False, digits=0),
                ", ".join(str(r["seed"]) for r in rows[row]),
            ]
        )
    return markdown(["row", "steps", "training, minutes", "pictures trained on", "seeds"], lines)


def main() -> int:
    args = parser(__doc__, STEPS, ROWS).parse_args()
    bench, steps = (BENCH.smoke(), 1) if args.smoke else (BENCH, args.steps)
    return finish(bench, experiments(steps, args.only), table, args)


if __name__ == "__main__":
    sys.exit(main())
