"""One experiment as a user would run it: ``alphagrpo train``, then ``alphagrpo evaluate``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alphagrpo.record.folder import RunFolder
from alphagrpo.record.versions import package_versions
from benchmarks.outcomes import outcomes

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SERVE_CONFIG = ROOT / "deploy" / "serve" / "shapes.yaml"
SPARE_CPUS = 4
"""Logical ones beside the services', for the runs' own processes."""
CURVES = (
    "reward/mean", "reward/score", "refine/draft_score", "refine/improved_share",
    "refine/harmed_share", "text/entropy", "samples/per_second",
)  # fmt: skip
"""Metrics that a result keeps of every step, where a run has them."""


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
    curves: Sequence[str] = CURVES
    """Metrics that are kept of every step."""
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


class RunFailed(RuntimeError):
    """A command of an experiment ended with an error; its output is above or in its log."""


def run_one(
    bench: Bench, experiment: Experiment, address: str, *, apart: bool = False
) -> dict[str, Any]:
    """Train (or resume) and evaluate one experiment; ``apart`` keeps its output in a log."""
    log = bench.runs / f"{experiment.name}.log" if apart else None
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
        folder = train(bench, experiment, address, log)
        checkpoint = folder.newest_checkpoint()
        summary = folder.summary_document()
        result |= {key: summary[key] for key in ("steps", "training_s", "samples", "time")}
        result["parity"] = summary["parity"]
        result["curve"] = curve(folder.metrics(), bench.curves)
    lines = bench.runs / f"{experiment.name}.jsonl"
    result["evaluation"] = evaluate(bench, experiment, checkpoint, lines, address, log)
    result["outcomes"] = outcomes(lines)
    return result


def train(bench: Bench, experiment: Experiment, address: str, log: Path | None = None) -> RunFolder:
    """``alphagrpo train`` without evaluations of its own: there is one, after it."""
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
    alphagrpo(command, address, log=log)
    return RunFolder.open(folder)


def evaluate(
    bench: Bench,
    experiment: Experiment,
    checkpoint: Path | None,
    lines: Path,
    address: str,
    log: Path | None = None,
) -> dict[str, Any]:
    """``alphagrpo evaluate`` of a checkpoint, with both judges; its figures."""
    changes = {**experiment.changes, **experiment.evaluation, **bench.evaluation}
    changes |= {"seed": experiment.seed}
    changes["services.question_store"] = str(bench.runs / "questions")
    command = ["evaluate", f"deploy/configs/{bench.evaluation_config}", *settings(changes)]
    command += ["--dvreward", "--json", "--output", str(lines)]
    command += ["--checkpoint", str(checkpoint)] if checkpoint else []
    command += ["--edits", str(bench.edits)] if bench.edits else []
    return json.loads(alphagrpo(command, address, answer=True, log=log))


def alphagrpo(
    command: Sequence[str], address: str, *, answer: bool = False, log: Path | None = None
) -> str:
    """Run one command of the console script.

    Returns its standard output with ``answer``. All other output goes to the terminal, or to the
    end of ``log``. Raises RunFailed where it fails.
    """
    program = Path(sys.executable).with_name("alphagrpo")
    with ExitStack() as stack:
        aside: Any = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            aside = stack.enter_context(log.open("a", encoding="utf-8"))
        done = subprocess.run(
            [str(program), *command],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": address},
            stdout=subprocess.PIPE if answer else aside,
            stderr=aside,
            text=True,
            check=False,
        )
    if done.returncode:
        where = f"; see {log}" if log else ""
        raise RunFailed(f"alphagrpo {' '.join(command)} failed with {done.returncode}{where}")
    return done.stdout or ""


@contextmanager
def cluster() -> Iterator[str]:
    """A private cluster with the services of the miniature; its address."""
    # Imported here: what only reads results needs no cluster.
    from benchmarks.chaos.cluster import cluster_with

    with cluster_with(SERVE_CONFIG, SPARE_CPUS) as address:
        yield address


def curve(
    metrics: Iterable[Mapping[str, Any]], keys: Iterable[str]
) -> dict[str, list[float | None]]:
    """The training curves worth keeping: one number per step."""
    lines = list(metrics)
    return {
        key: [None if line.get(key) is None else round(line[key], 4) for line in lines]
        for key in keys
        if any(line.get(key) is not None for line in lines)
    }


def settings(changes: Mapping[str, Any]) -> list[str]:
    """``--set a.b=c`` for each change; lists and mappings as JSON, which YAML reads."""
    words = []
    for key, value in changes.items():
        text = value if isinstance(value, str) else json.dumps(value)
        words += ["--set", f"{key}={text}"]
    return words


def commit() -> str:
    """The commit that is checked out, with a mark where files differ from it."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
