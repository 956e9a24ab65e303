"""Experiments: a training run, then one evaluation of what came of it, kept as one JSON file.

Shared by ``benchmarks.method`` and ``benchmarks.learning``. All runs of a benchmark share one
private cluster whose services stay up; each run is ``alphagrpo train`` and ``alphagrpo evaluate``
as a user would call them. What is finished is not done again, and a run that was cut short is
resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alphagrpo.report.versions import package_versions
from alphagrpo.runfolder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SERVE_CONFIG = ROOT / "deploy" / "serve" / "shapes.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One row's run with one seed."""

    row: str
    """What it is an example of, such as ``srr``."""
    seed: int
    config: str
    """The run config it trains, under ``deploy/configs``."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """``a.b`` to value, for training and evaluation alike."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The same, for training alone: the evaluation's judge stays the same for all rows."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """The same, for the evaluation alone."""
    steps: int = 0
    """Optimizer steps; 0 evaluates the model as it is."""

    @property
    def name(self) -> str:
        """File stem of its result and name of its run."""
        return f"{self.row}-seed{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A set of experiments, where they run, and how each is evaluated."""

    name: str
    evaluation: Mapping[str, Any]
    """``a.b`` to value of the evaluation's config."""
    evaluation_config: str = "shapes-srr.yaml"
    edits: int = 0
    """Edits per evaluation; 0 for none."""
    is_smoke: bool = False

    def smoke(self) -> Bench:
        """The same with a handful of prompts, kept apart: for a look at whether it runs."""
        few = {"evaluation.num_plain": 8, "evaluation.num_thought": 8}
        evaluation = {key: min(few.get(key, n), n) for key, n in self.evaluation.items()}
        return replace(self, evaluation=evaluation, edits=min(self.edits, 8), is_smoke=True)

    @property
    def results(self) -> Path:
        """Folder of one JSON file per experiment; part of the repository."""
        return self.runs / "results" if self.is_smoke else RESULTS / self.name

    @property
    def page(self) -> Path:
        """The table; part of the repository."""
        return self.runs / "table.md" if self.is_smoke else RESULTS / f"{self.name}.md"

    @property
    def runs(self) -> Path:
        """Folder of the run folders; not part of it."""
        return ROOT / "runs" / f"bench-{self.name}{'-smoke' if self.is_smoke else ''}"


def run_all(bench: Bench, experiments: Sequence[Experiment], minutes: float | None) -> bool:
    """Run what has no result yet; returns whether all have one. Stops when ``minutes`` are over."""
    started = time.monotonic()
    missing = [e for e in experiments if not result_path(bench, e).is_file()]
    if not missing:
        return True
    with cluster() as address:
        for index, experiment in enumerate(missing):
            spent = (time.monotonic() - started) / 60
            if minutes is not None and spent >= minutes:
                say(f"{spent:.0f} minutes are over, {len(missing) - index} runs are left")
                return False
            say(f"{experiment.name}: run {index + 1} of {len(missing)}")
            result = run_one(bench, experiment, address)
            path = result_path(bench, experiment)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return True


def run_one(bench: Bench, experiment: Experiment, address: str) -> dict[str, Any]:
    """Train (or resume) and evaluate one experiment."""
    result: dict[str, Any] = {
        "name": experiment.name,
        "row": experiment.row,
        "seed": experiment.seed,
        "config": experiment.config,
        "changes": dict(experiment.changes),
        "training_changes": dict(experiment.training),
        "versions": package_versions(),
        "commit": commit(),
    }
    checkpoint = None
    if experiment.steps:
        folder = train(bench, experiment, address)
        checkpoint = folder.newest_checkpoint()
        summary = folder.summary()
        result |= {key: summary[key] for key in ("steps", "training_s", "samples", "time")}
        result["parity"] = summary["parity"]
        result["curve"] = curve(folder.metrics())
    lines = bench.runs / f"{experiment.name}.jsonl"
    result["evaluation"] = evaluate(bench, experiment, checkpoint, lines, address)
    return result


def train(bench: Bench, experiment: Experiment, address: str) -> RunFolder:
    """``alphagrpo train`` without evaluations of its own; they are made once, after it."""
    folder = bench.runs / experiment.name
    changes = {
        **experiment.changes,
        **experiment.training,
        "name": experiment.name,
        "output": str(bench.runs),
        "seed": experiment.seed,
        "training.num_steps": experiment.steps,
        "training.max_minutes": "null",
        "evaluation.num_plain": 0,
        "evaluation.num_thought": 0,
        "services.question_store": str(bench.runs / "questions"),
    }
    resume = ["--resume"] if (folder / "config.yaml").is_file() else []
    command = ["train", f"deploy/configs/{experiment.config}", *settings(changes), *resume]
    alphagrpo(command, address)
    return RunFolder.open(folder)


def evaluate(
    bench: Bench, experiment: Experiment, checkpoint: Path | None, lines: Path, address: str
) -> dict[str, Any]:
    """``alphagrpo evaluate`` of a checkpoint, with both judges; its figures."""
    changes = {**experiment.changes, **experiment.evaluation, **bench.evaluation}
    changes |= {"seed": experiment.seed}
    changes["services.question_store"] = str(bench.runs / "questions")
    command = ["evaluate", f"deploy/configs/{bench.evaluation_config}", *settings(changes)]
    command += ["--dvreward", "--json", "--output", str(lines)]
    command += ["--checkpoint", str(checkpoint)] if checkpoint else []
    command += ["--edits", str(bench.edits)] if bench.edits else []
    return json.loads(alphagrpo(command, address, quiet=True))


def alphagrpo(command: Sequence[str], address: str, *, quiet: bool = False) -> str:
    """Run one command of the console script; its output, or a stop with what it said."""
    program = Path(sys.executable).with_name("alphagrpo")
    done = subprocess.run(
        [str(program), *command],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"alphagrpo {' '.join(command)} failed with {done.returncode}")
    return done.stdout or ""


@contextmanager
def cluster() -> Iterator[str]:
    """A private cluster with the services of the miniature; its address."""
    import ray

    from alphagrpo.cli.console import Narrator
    from alphagrpo.cli.serving import serving

    os.environ["RAY_ADDRESS"] = "local"
    with serving(SERVE_CONFIG, Narrator(), ("decomposer", "verifier")):
        yield str(ray.get_runtime_context().gcs_address)


def curve(metrics: Iterable[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """The training curves worth keeping: one number per step."""
    keys = (
        "reward/mean", "reward/score", "refine/draft_score", "refine/improved_share",
        "refine/harmed_share", "text/entropy", "samples/per_second",
    )  # fmt: skip
    lines = list(metrics)
    return {
        key: [None if line.get(key) is None else round(line[key], 4) for line in lines]
        for key in keys
        if any(line.get(key) is not None for line in lines)
    }


def settings(changes: Mapping[str, Any]) -> list[str]:
    """``--set a.b=c`` for each change; lists and mappings as JSON, which YAML reads."""
    found = []
    for key, value in changes.items():
        text = value if isinstance(value, str) else json.dumps(value)
        found += ["--set", f"{key}={text}"]
    return found


def result_path(bench: Bench, experiment: Experiment) -> Path:
    """Where an experiment's result is kept."""
    return bench.results / f"{experiment.name}.json"


def results(bench: Bench) -> list[dict[str, Any]]:
    """All results there are."""
    return [json.loads(path.read_text()) for path in sorted(bench.results.glob("*.json"))]


def commit() -> str:
    """The commit that is checked out, with a mark where files differ from it."""
    try:
        words = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def finish(
    bench: Bench,
    experiments: Sequence[Experiment],
    table: Callable[[Sequence[Mapping[str, Any]]], str],
    args: argparse.Namespace,
) -> int:
    """Run what is missing (unless only the table is wanted), write and print the table."""
    complete = args.table or run_all(bench, experiments, args.minutes)
    page = table(results(bench))
    bench.page.write_text(page, encoding="utf-8")
    print(page)
    return 0 if complete else 1


def say(text: str) -> None:
    """A line about the whole benchmark."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def parser(description: str | None, steps: int) -> argparse.ArgumentParser:
    """The options both benchmarks have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--steps", type=int, default=steps, help="optimizer steps of each run")
    made.add_argument("--minutes", type=float, help="begin no further run after so many minutes")
    made.add_argument("--only", nargs="*", help="rows to run; default: all")
    made.add_argument("--table", action="store_true", help="only write the table again")
    made.add_argument("--smoke", action="store_true", help="one step, eight prompts, kept apart")
    return made
