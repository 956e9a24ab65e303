"""Does the picture side learn? ``python -m benchmarks.learning`` (``make bench-learning``).

Thinking off, plain prompts, three seeds: the picture's SDE window is all that trains. Reported are
held-out plain prompts all right (before and after, paired per prompt), and the share of pictures
with objects nobody asked for, which must not rise. Resumable; hours on two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alphagrpo.data import load_heldout
from alphagrpo.shapes.splits import spec_of
from benchmarks.curves import band_chart
from benchmarks.experiments import finish, load_results, parser
from benchmarks.outcomes import paired
from benchmarks.running import Bench, Experiment
from benchmarks.tables import (
    PLAIN,
    at,
    by_row,
    differences,
    interval,
    lookup,
    markdown,
    same_seed,
    spread,
)

SEEDS = (1, 2, 3)
STEPS = 300
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to train, and how often it is tried."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    """Optimizer steps; 0 for the base."""
    seeds: Sequence[int] = SEEDS
    decays: bool = False
    """Whether the rate falls to 0 over the run's steps."""

    def experiment(self, row: str, seed: int, steps: int | None) -> Experiment:
        """One run of it; ``steps`` in place of its own, except for the base, which has none."""
        count = (steps or self.steps) if self.steps else 0
        decay = {"optimizer.decay_steps": count} if self.decays else {}
        return Experiment(
            row=row,
            seed=seed,
            config="shapes-rt2i.yaml",
            training={**RT2I_NO_THOUGHT, **self.changes, **decay},
            steps=count,
        )


def rate(value: float) -> dict[str, Any]:
    """One learning rate for both experts: without thoughts they see the same gradient."""
    return {"optimizer.lr": value, "optimizer.generation_lr": None}


LARGE = {"rollout.prompts_per_step": 32, "rollout.group_size": 16}
SHORT = 96
"""Steps of the trials against the setting of choice, with one seed."""


def trial(changes: Mapping[str, Any], steps: int = SHORT) -> Setting:
    """The setting of choice with something changed."""
    return Setting(changes={**rate(1.5e-4), **changes}, steps=steps, seeds=SEEDS[:1])


CHOICE = "rate-15e-5"
"""The setting that is tried with all seeds."""
SETTINGS: dict[str, Setting] = {
    "base": Setting(),
    CHOICE: Setting(changes=rate(1.5e-4), steps=STEPS),
    "decay": Setting(changes=rate(1.5e-4), steps=STEPS, seeds=SEEDS[:1], decays=True),
    "short": trial({}),
    "rate-5e-5": trial(rate(5.0e-5)),
    "batch-std": trial({"algorithm.advantage_std": "batch"}),
    "lora": trial({"model.trainable": "lora", **rate(1.0e-3)}),
    "unguided": trial({"rollout.flow.guidance.text_scale": 1.0}),
    "large-batch": trial(LARGE, steps=SHORT * 3 // 8),
}
"""``large-batch`` sees as many pictures as the other trials."""


def experiments(steps: int | None, only: Sequence[str] | None) -> list[Experiment]:
    """The base and every setting tried, seed by seed; ``steps`` for all in place of their own."""
    return [
        setting.experiment(row, seed, steps)
        for seed in SEEDS
        for row, setting in SETTINGS.items()
        if seed in setting.seeds and (not only or row in only)
    ]


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The page: each setting against the base of the same seed, then the rewards' curves."""
    rows = by_row(results)
    lines = []
    for row in [name for name in SETTINGS if name in rows]:
        runs = rows[row]
        pairs = [] if row == "base" else same_seed(runs, rows.get("base", []))
        lines.append(
            [
                row,
                ", ".join(str(r["seed"]) for r in runs),
                str(runs[0].get("steps", 0)),
                spread([at(r, *_path("all_right")) for r in runs]),
                spread(differences(pairs, _path("all_right"), _path("all_right"))),
                interval(paired(pairs, (PLAIN, "all_right"), (PLAIN, "all_right"))),
                spread(differences(pairs, _path("strict"), _path("strict"))),
                spread([at(r, *_path("extra")) for r in runs]),
                spread(differences(pairs, _path("extra"), _path("extra"))),
                interval(paired(pairs, (PLAIN, "extra"), (PLAIN, "extra"))),
            ]
        )
    header = ["setting", "seeds", "steps", "all right", "gain", "95 %", "strict gain"]
    header += ["unasked objects", "change", "95 %"]
    title = "# Learning on the picture side"
    parts = [title, INTRODUCTION.strip(), markdown(header, lines), CURVES]
    parts += ["## By family of prompt, all right in %", by_family(results)]
    return "\n\n".join(parts) + "\n"


def by_family(results: Sequence[Mapping[str, Any]]) -> str:
    """Base against the setting of choice by family of prompt: where the gain comes from."""
    rows = by_row(results)
    shares: dict[str, tuple[list[float], list[float]]] = {}
    for pair in same_seed(rows.get(CHOICE, []), rows.get("base", [])):
        lines = [lookup(result, "outcomes", PLAIN, "all_right") or "" for result in pair]
        for family, places in families(pair[0]["seed"], len(lines[0])).items():
            for column, line in zip(shares.setdefault(family, ([], [])), lines, strict=True):
                column.append(sum(line[i] == "1" for i in places) / len(places))
    body = [
        [family, spread(base), spread(trained)]
        for family, (trained, base) in sorted(shares.items())
    ]
    return markdown(["prompts", "base", CHOICE], body)


def families(seed: int, num: int) -> dict[str, list[int]]:
    """Which of the held-out plain prompts of ``seed`` are singles, counts, pairs, and so on."""
    prompts = load_heldout("shapes:heldout", num_plain=num, num_thought=0, seed=seed)
    places: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        places.setdefault(str(spec_of(prompt).family), []).append(index)
    return places


def curves(results: Sequence[Mapping[str, Any]]) -> str:
    """The SVG of the rewards during training, one band per setting."""
    rows = by_row(results)
    seeds = {
        row: [r["curve"]["reward/mean"] for r in rows[row] if r.get("curve")]
        for row in SETTINGS
        if row in rows
    }
    return band_chart("mean reward (DVReward) per optimizer step", seeds)


INTRODUCTION = """
Made by `make bench-learning` (`python -m benchmarks.learning`); results of single runs lie in
`learning/`. 512 held-out plain prompts per seed, thinking off, by the oracle, in %; mean ± standard
deviation over seeds. "gain" and "change" are against the base with the same prompts and seeds, and
"95 %" is the interval (Tango's) of the paired difference over the prompts of all seeds.
"""
CURVES = "![Mean reward per optimizer step, with its spread over seeds](learning.svg)"


def _path(key: str) -> tuple[str, ...]:
    return ("evaluation", PLAIN, key)


def main() -> int:
    args = parser(__doc__, None, SETTINGS).parse_args()
    bench, steps = (BENCH.smoke(), 1) if args.smoke else (BENCH, args.steps)
    status = finish(bench, experiments(steps, args.only), table, args)
    bench.page.with_name("learning.svg").write_text(curves(load_results(bench)), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
