"""Experiments: a training run, then one evaluation of what came of it, kept as one JSON file.

Shared by ``benchmarks.method`` and ``benchmarks.learning``. All runs of a benchmark share one
private cluster whose services stay up; each run is ``alphagrpo train`` and ``alphagrpo evaluate``
as a user would call them. What is finished is not done again, and a run that was cut short is
resumed (``benchmarks.running``).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.running import Bench, Experiment, RunFailed, cluster, run_one


def run_all(
    bench: Bench, experiments: Sequence[Experiment], minutes: float | None = None, jobs: int = 1
) -> bool:
    """Run what has no result yet, ``jobs`` at a time; returns whether all have one.

    No run begins when ``minutes`` are over. A run that fails is named and leaves the others alone.
    """
    missing = [e for e in experiments if not result_path(bench, e).is_file()]
    if not missing:
        return True
    started = time.monotonic()
    failed: list[str] = []
    left: list[str] = []

    def attempt(experiment: Experiment) -> None:
        if minutes is not None and time.monotonic() - started >= minutes * 60:
            left.append(experiment.name)
            return
        say(f"{experiment.name}: begins ({missing.index(experiment) + 1} of {len(missing)})")
        try:
            keep(bench, experiment, run_one(bench, experiment, address, apart=jobs > 1))
        except RunFailed as error:
            failed.append(experiment.name)
            say(f"{experiment.name}: {error}")
        else:
            say(f"{experiment.name}: done")

    with cluster() as address, ThreadPoolExecutor(jobs) as pool:
        list(pool.map(attempt, missing))
    if left:
        say(f"{minutes:g} minutes are over, {len(left)} runs are left: {', '.join(left)}")
    if failed:
        say(f"without a result: {', '.join(failed)}")
    return not failed and not left


def keep(bench: Bench, experiment: Experiment, result: Mapping[str, Any]) -> None:
    """Write an experiment's result."""
    path = result_path(bench, experiment)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def result_path(bench: Bench, experiment: Experiment) -> Path:
    """Where an experiment's result is kept."""
    return bench.results / f"{experiment.name}.json"


def load_results(bench: Bench) -> list[dict[str, Any]]:
    """All results there are."""
    return [json.loads(path.read_text()) for path in sorted(bench.results.glob("*.json"))]


def finish(
    bench: Bench,
    experiments: Sequence[Experiment],
    table: Callable[[Sequence[Mapping[str, Any]]], str],
    args: argparse.Namespace,
) -> int:
    """Run what is missing (unless only the table is wanted), write and print the table."""
    complete = args.table or run_all(bench, experiments, args.minutes, args.jobs)
    page = table(load_results(bench))
    bench.page.write_text(page, encoding="utf-8")
    print(page)
    return 0 if complete else 1


def say(text: str) -> None:
    """A line about the whole benchmark."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def parser(
    description: str | None, steps: int | None, rows: Iterable[str]
) -> argparse.ArgumentParser:
    """The options both benchmarks have."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--steps", type=int, default=steps, help="optimizer steps of each run")
    options.add_argument("--minutes", type=float, help="begin no further run after so many minutes")
    options.add_argument(
        "--jobs", type=int, default=1, help="runs at a time; each takes two cores and 3 GiB"
    )
    options.add_argument("--only", nargs="*", choices=list(rows), help="rows to run; default: all")
    options.add_argument("--table", action="store_true", help="only write the table again")
    options.add_argument("--smoke", action="store_true", help="one step, eight prompts, kept apart")
    return options
