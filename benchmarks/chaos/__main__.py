"""``make chaos``: fifty things that go wrong, and whether the run is still the run it was.

Two runs of one config on one cluster, with both real engines: one is left alone, the other is
killed, stopped, delayed and damaged under a seed. Reported are the events with their recoveries,
groups that were lost or trained twice, and whether ledger and final weights are the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from alphagrpo.cli.console import print_table
from alphagrpo.cli.ray_start import set_environment
from benchmarks.chaos.events import Outcome, by_kind, drawn_events
from benchmarks.chaos.verdict import Verdict
from benchmarks.running import RESULTS
from benchmarks.tables import markdown
from benchmarks.walk.hosts import ROOT

EVENTS, MOST_STEPS, LONGEST_DELAY_S = 50, 4, 2.0
COLUMNS = ("event", "times", "recovery, median, s", "worst, s", "ended the run")
SETTINGS = (
    "training.max_minutes=null",
    "training.checkpoint_every=2",
    "training.report_every=1000",
    "training.report_groups_every=1000",
    "evaluation.num_plain=0",
    "evaluation.num_thought=0",
    "rollout.num_runners=2",
    "rollout.cpus_per_runner=0.5",
    "learner.ranks=2",
    "learner.cpus=0.5",
    "deadlines.ping_s=10",
)
NOTE = """Printed by `make chaos` (seed {seed}): the miniature policy, two runners, two ranks, both
real engines, one machine of two cores that was shared. A recovery is the time from the event to the
next step that is written down, without the seconds of a usual step ({usual:.1f} s); of a process
that was stopped, to its replacement. What comes with one event may be felt with the next one."""


def rows_of(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """A row for each kind of event, and one for all."""
    groups = [*by_kind(outcomes), ("all", outcomes)]
    return [
        (
            name,
            str(len(group)),
            f"{statistics.median(outcome.recovery_s for outcome in group):.1f}",
            f"{max(outcome.recovery_s for outcome in group):.1f}",
            str(sum(outcome.resumed for outcome in group)),
        )
        for name, group in groups
    ]


def sentence(verdict: Verdict) -> str:
    """The outcome in words."""
    same = {True: "identical", False: "DIFFERENT"}
    return (
        f"{verdict.steps} steps, {verdict.groups} groups: {verdict.lost} lost, {verdict.twice} "
        f"trained twice; ledger {same[verdict.same_ledger]}, final weights "
        f"{same[verdict.same_weights]}."
    )


def main() -> int:
    """Run, print the table, write the page; 1 where anything was lost or differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    set_environment(private=True)
    # Imported here, not before: Ray reads its authentication mode once, when it is imported.
    from benchmarks.chaos.story import Chaos, Plan

    console = Console()
    plan = Plan(
        config=ROOT / "deploy/configs/smoke.yaml",
        settings=SETTINGS,
        services=ROOT / "deploy/serve/shapes.yaml",
        events=tuple(drawn_events(args.seed, args.events, MOST_STEPS, LONGEST_DELAY_S)),
    )
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        chaos = Chaos(
            Path(name), plan, lambda line: console.print(line, markup=False, highlight=False)
        )
        verdict = chaos.go()
    rows = rows_of(chaos.outcomes)
    print_table(console, "what went wrong", rows, COLUMNS)
    console.print(sentence(verdict))
    note = NOTE.format(seed=args.seed, usual=chaos.usual_s)
    text = f"# Chaos\n\n{note}\n\n{markdown(COLUMNS, rows)}\n\n{sentence(verdict)}\n"
    (RESULTS / "chaos.md").write_text(text, encoding="utf-8")
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
