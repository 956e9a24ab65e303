"""Does lag cost reward? ``python -m benchmarks.lag``: about 25 minutes on two cores, resumable.

The demo's recipe with half of its prompts a step, three seeds: no lag, one step of lag with the
clips alone, one step of lag with importance weights. The judges of the reward are the miniature
decomposer and verifier, as in the demo. Reported are the reward after 30 steps, on the last
training steps and on held-out prompts, and what the clips took.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from alphagrpo.types import SORTS
from benchmarks.experiments import finish, parser
from benchmarks.running import Bench, Experiment
from benchmarks.tables import at, by_row, lookup, markdown, median_range, same_seed

SEEDS = (1, 2, 3)
STEPS, SMOKE_STEPS = 30, 2
LAST = 5
"""Steps whose mean reward stands for the end of training."""
HELDOUT = 128
"""Prompts of each sort."""
BENCH = Bench(
    name="lag",
    evaluation={
        "evaluation.num_plain": HELDOUT,
        "evaluation.num_thought": HELDOUT,
        "evaluation.rounds": 0,
    },
    evaluation_config="shapes-rt2i.yaml",
    curves=(
        "reward/mean", "learner/lag", "image/clip_share", "text/clip_share", "image/capped_share",
        "text/capped_share", "learner/grad_norm",
    ),
)  # fmt: skip
PROMPTS = 8
SIZE = {"rollout.prompts_per_step": PROMPTS}
ONE_STEP = {"rollout.max_lag": 1}
BASE, NONE = "base", "lag-0"
ROWS: dict[str, Mapping[str, Any]] = {
    BASE: {},
    NONE: {},
    "lag-1-clip": {**ONE_STEP, "algorithm.lag": "clip"},
    "lag-1-importance": {**ONE_STEP, "algorithm.lag": "importance"},
}
"""What is changed for training; the base is not trained."""


def experiments(steps: int, only: Sequence[str] | None) -> list[Experiment]:
    """All runs, the first seed of every row before the second of any."""
    return [
        Experiment(
            row=row,
            seed=seed,
            config="shapes-rt2i.yaml",
            training={**SIZE, **changes},
            steps=0 if row == BASE else steps,
        )
        for seed in SEEDS
        for row, changes in ROWS.items()
        if not only or row in only
    ]


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The page: rewards of each row, and what was clipped on the way."""
    rows = by_row(results)
    known = {row: rows[row] for row in ROWS if row in rows}
    parts = ["# What lag costs", INTRODUCTION, reward_table(known)]
    parts += ["## On the way", step_table(known)]
    return "\n\n".join(parts) + "\n"


def reward_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """After training, and each row's difference to no lag with the same seed."""
    header = ["row", "seeds", f"reward, last {LAST} steps", "against lag-0"]
    header += ["held-out reward", "against lag-0", "all right, %"]
    lines = []
    for row, runs in rows.items():
        pairs = [] if row == NONE else same_seed(runs, rows.get(NONE, []))
        lines.append(
            [
                row,
                str(len(runs)),
                median_range([last_reward(r) for r in runs]),
                median_range([_minus(last_reward(a), last_reward(b)) for a, b in pairs], sign="+"),
                median_range([heldout(r, "dvreward") for r in runs]),
                median_range(
                    [_minus(heldout(a, "dvreward"), heldout(b, "dvreward")) for a, b in pairs],
                    sign="+",
                ),
                median_range([_percent(heldout(r, "all_right")) for r in runs], digits=1),
            ]
        )
    return markdown(header, lines)


def step_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Medians over the steps of a run, then over seeds."""
    names = {
        "learner/lag": "lag, versions",
        "image/clip_share": "image terms clipped, %",
        "text/clip_share": "text terms clipped, %",
        "image/capped_share": "image weights at the cap, %",
        "text/capped_share": "text weights at the cap, %",
        "learner/grad_norm": "gradient norm",
    }
    lines = []
    for row in [row for row in rows if row != BASE]:
        cells = [
            median_range(
                [_percent(v) if "share" in key else v for v in _step_medians(rows[row], key)],
                digits=1 if "share" in key else 3,
            )
            for key in names
        ]
        seconds = [_per_step(result) for result in rows[row]]
        lines.append([row, *cells, median_range(seconds, digits=2)])
    return markdown(["row", *names.values(), "s per step"], lines)


def last_reward(result: Mapping[str, Any]) -> float | None:
    """Mean reward of the last training steps, bonus included; None without training."""
    rewards = [r for r in (lookup(result, "curve", "reward/mean") or []) if r is not None]
    return statistics.fmean(rewards[-LAST:]) if rewards else None


def heldout(result: Mapping[str, Any], figure: str) -> float | None:
    """A held-out figure, the mean of both sorts, which have as many prompts."""
    values = [at(result, "evaluation", sort, figure) for sort in SORTS]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _step_medians(results: Sequence[Mapping[str, Any]], key: str) -> list[float | None]:
    """Of each run, without its first step: that one never lags."""
    curves = [[v for v in (lookup(r, "curve", key) or [])[1:] if v is not None] for r in results]
    return [statistics.median(curve) if curve else None for curve in curves]


def _per_step(result: Mapping[str, Any]) -> float | None:
    seconds = at(result, "training_s")
    return None if seconds is None else seconds / int(result["steps"])


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _percent(share: float | None) -> float | None:
    return None if share is None else 100.0 * share


INTRODUCTION = f"""
Made by `python -m benchmarks.lag`; the results of single runs lie in `lag/`. The demo's recipe with
{PROMPTS} prompts of 12 samples a step in place of 16, {STEPS} steps, rewards by the miniature
decomposer and verifier. All cells are medians over seeds, with least and largest. The runs of one
seed take their prompts in one order and begin with the same weights and noise, so that "against
lag-0" is paired by seed. The held-out reward is DVReward by the same judges on {HELDOUT} plain and
{HELDOUT} thought prompts; "all right" is the oracle's verdict on the same pictures. Drawing,
judging and learning share two cores here: the seconds say little about cards of their own.
""".strip()


def main() -> int:
    args = parser(__doc__, STEPS, ROWS).parse_args()
    bench, steps = (BENCH.smoke(), SMOKE_STEPS) if args.smoke else (BENCH, args.steps)
    return finish(bench, experiments(steps, args.only), table, args)


if __name__ == "__main__":
    sys.exit(main())
