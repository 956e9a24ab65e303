"""How much longer a step takes than its longest stage: the real control plane, stages that sleep.

``python -m benchmarks.mesh``. Training loop, pool, learner client, the front of the ranks, Ray
actors and the object store are the project's; drawing, verdicts, replay and the optimizer sleep.
``--quick`` runs the rows of 4 and 16 runners without Ray and without waiting, on a virtual clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alphagrpo.cli.console import Narrator
from alphagrpo.cli.ray_session import ray_session
from alphagrpo.cli.ray_start import set_environment
from benchmarks.running import RESULTS, commit

if TYPE_CHECKING:
    from benchmarks.mesh.measuring import Measured
    from benchmarks.mesh.page import Answer
    from benchmarks.mesh.rows import Table

STORE_BYTES = 512 << 20
AT_ONCE = 8
"""Processes that Ray starts side by side."""
PREFACE = """Printed by `python -m benchmarks.mesh` on two cores that all processes share with
others (load {load:.0f} when it began; commit {commit}). **Real**: training loop, prompt order,
dealing, advantages, step feed, `RayRolloutPool`, `RayLearner`, the front of the ranks
(`RankedLearner`, `RayRank`), their Ray actors, a process each, calls and object store; reports with
thoughts and a verdict per question. **Asleep**: drawing, verdicts, replay (a rank fetches its
group first, which weighs 0.1 MB), as long as the stages say; summing gradients, the optimizer and
weights take no time, and no weights move (`weights.md` measures that).

T* is the longest stage: a role's seconds of work, spread evenly over its processes. No step of a
long run can be shorter; at lag 0 a step also has to draw its first group before it can learn, which
alone is 1 / (groups a runner x slices) of T* where both stages are equal. **Rules alone** is
wall / T* of the same program on a virtual clock, where nothing but sleeping takes time: what is
above it, also told in milliseconds a group, is processes, calls and the machine. CPU is of all
threads of a process, in milliseconds a group: the driver's, and the central learner's, which has
the front of the ranks. Two calls of actors with nothing in them, one with two returns as a group
has, cost this driver {bare:.2f} ms. Steps are medians without the first, means with lag. A goal is
judged by its figure as measured here."""


def measured_by_ray(tables: Sequence[Table], narrator: Narrator) -> tuple[list[Answer], float]:
    """All tables over actors of a cluster of their own, and what two bare calls cost there."""
    from benchmarks.mesh.page import Answer

    with ray_session(None, num_cpus=AT_ONCE, store_bytes=STORE_BYTES):
        measured, bare_ms = asyncio.run(_measure_all(tables, narrator))
    with narrator.stage("The rules alone"):
        answers = [
            Answer(table, rows, virtually(table))
            for table, rows in zip(tables, measured, strict=True)
        ]
    return answers, bare_ms


async def _measure_all(
    tables: Sequence[Table], narrator: Narrator
) -> tuple[list[tuple[Measured, ...]], float]:
    from benchmarks.mesh.measuring import bare_calls_ms, measure
    from benchmarks.mesh.processes import RayProcesses

    rows = [row for table in tables for row in table.rows]
    with narrator.stage("Processes"):
        processes = RayProcesses(
            num_runners=max(row.runners for row in rows),
            num_ranks=max(row.ranks for row in rows),
        )
        await processes.ready()
    measured = []
    for table in tables:
        with narrator.stage(table.title):
            measured.append(tuple([await measure(row, processes) for row in table.rows]))
    return measured, await bare_calls_ms(processes.runners[:16])


def virtually(table: Table) -> tuple[Measured, ...]:
    """A table's rows where nothing but sleeping takes time."""
    from benchmarks.mesh.measuring import measure
    from benchmarks.mesh.processes import LocalProcesses
    from benchmarks.mesh.virtual import run_virtually

    return tuple(run_virtually(measure(row, LocalProcesses())) for row in table.rows)


def quick_answers() -> list[Answer]:
    """The small rows on the virtual clock: what is measured is what the rules cost."""
    from benchmarks.mesh.page import Answer
    from benchmarks.mesh.rows import tables

    answers = []
    for table in tables():
        small = table.small()
        rows = virtually(small)
        answers.append(Answer(small, rows, rows))
    return answers


def main() -> None:
    """Measure, print, and write page and figures down; the quick ones are only printed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mesh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 and 16 runners, virtual clock")
    if parser.parse_args(sys.argv[1:]).quick:
        print("\n".join(answer.markdown() for answer in quick_answers()))
        return
    set_environment(private=True)
    # Imported here, not before: Ray reads its authentication mode once, when it is imported.
    from benchmarks.mesh.page import page
    from benchmarks.mesh.rows import tables

    load, at = os.getloadavg()[0], commit()
    answers, bare_ms = measured_by_ray(tables(), Narrator())
    text = page(answers, PREFACE.format(load=load, commit=at, bare=bare_ms))
    print(text)
    (RESULTS / "mesh.md").write_text(text, encoding="utf-8")
    records = [record for answer in answers for record in answer.records()]
    (RESULTS / "mesh.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
