"""Does the picture side learn? ``python -m benchmarks.learning`` (``make bench-learning``).

Thinking off, plain prompts, three seeds: the picture's SDE window is all that trains. Reported are
held-out plain prompts all right (before and after, paired per prompt), and the share of pictures
with objects nobody asked for, which must not rise. Resumable; hours on two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.experiments import finish, parser
from benchmarks.running import Bench, Experiment
from benchmarks.tables import at, by_row, markdown, spread

SEEDS = (1, 2, 3)
STEPS = 120
NO_THOUGHT = {
    "task.think": False,
    "reward.format_bonus": 0.0,
    "refinement.format_bonus": 0.0,
    "data.thought_share": 0.0,
}
RT2I_NO_THOUGHT = {key: value for key, value in NO_THOUGHT.items() if "refinement" not in key}
BENCH = Bench(
    name="learning",
    evaluation={
        **NO_THOUGHT,
        "evaluation.num_plain": 512,
        "evaluation.num_thought": 0,
        "evaluation.rounds": 0,
    },
)
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {},
    "demo settings": {},
    "larger batch": {"rollout.prompts_per_step": 32, "rollout.group_size": 16},
    "lower rate": {"optimizer.lr": 4.0e-5, "rollout.prompts_per_step": 32},
}


def experiments(steps: int, only: Sequence[str] | None) -> list[Experiment]:
    """The base and every setting tried, seed by seed."""
    return [
        Experiment(
            row=row.replace(" ", "-"),
            seed=seed,
            config="shapes-rt2i.yaml",
            training={**RT2I_NO_THOUGHT, **changes},
            steps=0 if row == "base" else steps,
        )
        for seed in SEEDS
        for row, changes in SETTINGS.items()
        if not only or row.replace(" ", "-") in only
    ]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The page: each setting against the base of the same seed."""
    rows = by_row(found)
    base = {r["seed"]: r for r in rows.get("base", [])}
    lines = []
    for row, mine in rows.items():
        gains = [_gain(base.get(r["seed"]), r, "all_right") for r in mine]
        extra = [_gain(base.get(r["seed"]), r, "extra") for r in mine]
        lines.append(
            [
                row,
                ", ".join(str(r["seed"]) for r in mine),
                str(mine[0].get("steps", 0)),
                spread([at(r, "evaluation", "plain", "all_right") for r in mine]),
                spread(gains),
                spread([at(r, "evaluation", "plain", "strict") for r in mine]),
                spread([at(r, "evaluation", "plain", "extra") for r in mine]),
                spread(extra),
            ]
        )
    header = [
        "setting",
        "seeds",
        "steps",
        "all right",
        "gain",
        "strict",
        "unasked objects",
        "change",
    ]
    return (
        "\n\n".join(
            [
                "# Learning on the picture side",
                INTRODUCTION.strip(),
                markdown(header, lines),
            ]
        )
        + "\n"
    )


INTRODUCTION = """
Made by `make bench-learning` (`python -m benchmarks.learning`); results of single runs lie in
`learning/`. 512 held-out plain prompts, thinking off, by the oracle, in %; mean ± standard
deviation over seeds. "gain" and "change" are against the base with the same prompts and seeds.
"""


def _gain(base: Mapping[str, Any] | None, mine: Mapping[str, Any], key: str) -> float | None:
    before = None if base is None else at(base, "evaluation", "plain", key)
    after = at(mine, "evaluation", "plain", key)
    return None if before is None or after is None else after - before


def main() -> int:
    args = parser(__doc__, STEPS).parse_args()
    bench, steps = (BENCH.smoke(), 1) if args.smoke else (BENCH, args.steps)
    return finish(bench, experiments(steps, args.only), table, args)


if __name__ == "__main__":
    sys.exit(main())
