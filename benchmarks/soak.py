"""``make soak MINUTES=60``: what grows while a run goes on, and whether it levels off.

The miniature run with both real engines, in steps of a second or two. Memory and open files of each
role's processes, the object store and the run's folder are looked at every few seconds. Reported
are their sizes and, after the first minutes in which caches fill, their slopes with a verdict.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console

from alphagrpo.cli.console import print_table
from alphagrpo.cli.ray_start import set_environment
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.summary import trained_s
from benchmarks.running import RESULTS
from benchmarks.tables import markdown
from benchmarks.walk.hosts import ROOT

NAME, MINUTES, EVERY_S, WARM_UP_S = "soak", 60.0, 10.0, 600.0
LIMIT_MIB = 1.0
"""Growth per minute of a role's memory that is borne after the warm-up."""
LIMIT_FILES = 0.1
"""The same of its open files."""
ROLES = (
    "runner", "learner", "registry", "verifier replica", "verifier engine", "decomposer replica",
    "decomposer engine",
)  # fmt: skip
COLUMNS = ("role", "MiB at first", "after warm-up", "at last", "MiB a minute", "files a minute", "")
CHECKPOINT_EVERY = 20
SETTINGS = (
    "training.num_steps=1000000",
    "training.max_minutes=null",
    f"training.checkpoint_every={CHECKPOINT_EVERY}",
    "training.report_every=20",
    "evaluation.num_plain=0",
    "evaluation.num_thought=0",
    "rollout.num_runners=2",
    "rollout.cpus_per_runner=0.5",
)
NOTE = """Printed by `make soak MINUTES={minutes:g}`: {steps} steps of `smoke.yaml` with two runners
and both real engines; checkpoints every {every} steps took {saving:.1%} of the steps' time. Slopes
are least squares over all looks after the first {warm:.0f} minutes; a role may grow by {limit:g}
MiB and {files:g} files a minute. The run's folder grows with its steps, and is not judged."""


def sizes(processes: Sequence[psutil.Process]) -> tuple[float, float]:
    """MiB and open files of processes together; what is shared with others counts by share."""
    memory, files = 0.0, 0.0
    for process in processes:
        with suppress(psutil.Error):
            memory += process.memory_full_info().pss / 2**20
            files += process.num_fds()
    return memory, files


def slope(minutes: Sequence[float], values: Sequence[float]) -> float:
    """Per minute, by least squares; NaN where there are fewer than three looks."""
    if len(minutes) < 3:
        return float("nan")
    return float(np.polyfit(minutes, values, 1)[0])


def folder_mib(path: Path) -> float:
    """Bytes of all files below ``path``."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 2**20


def saving_share(folder: Path) -> float:
    """Seconds of a run's checkpoints over those of its steps."""
    metrics = RunFolder.open(folder).metrics()
    saving = sum(line.get("time/checkpoint_s", 0.0) for line in metrics)
    return saving / max(trained_s(metrics), 1e-9)


def verdict(mib: float, files: float) -> str:
    """Whether a role's growth is borne; nothing where it is not known."""
    if not (np.isfinite(mib) and np.isfinite(files)):
        return ""
    return "grows" if mib > LIMIT_MIB or files > LIMIT_FILES else "flat"


class Soak:
    """Looks at a run while it goes on."""

    def __init__(self, warm_up_s: float) -> None:
        self._warm_up_s = warm_up_s
        self._begun = time.monotonic()
        self.looks: dict[str, list[tuple[float, float, float]]] = {}
        """Of each role minutes, MiB and open files, look by look."""

    def look(self, roles: Mapping[str, Sequence[psutil.Process]], **others: float) -> None:
        """Note what there is; ``others`` are sizes in MiB that have no processes."""
        minutes = (time.monotonic() - self._begun) / 60
        found = {role: sizes(processes) for role, processes in roles.items()}
        found |= {name.replace("_", " "): (size, 0.0) for name, size in others.items()}
        for role, (memory, files) in found.items():
            self.looks.setdefault(role, []).append((minutes, memory, files))

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each role."""
        return [self._row(role, looks) for role, looks in self.looks.items()]

    def _row(self, role: str, looks: Sequence[tuple[float, float, float]]) -> tuple[str, ...]:
        warm = [look for look in looks if look[0] >= self._warm_up_s / 60]
        minutes = [look[0] for look in warm]
        mib = slope(minutes, [look[1] for look in warm])
        files = slope(minutes, [look[2] for look in warm])
        judged = "" if role == "run folder" else verdict(mib, files)
        after = f"{warm[0][1]:.0f}" if warm else "-"
        return (
            role, f"{looks[0][1]:.0f}", after, f"{looks[-1][1]:.0f}", f"{mib:+.2f}",
            f"{files:+.3f}", judged,
        )  # fmt: skip


def watch(soak: Soak, folder: Path, pid: int, end: float) -> None:
    """Look until ``end``, on the monotonic clock."""
    import ray

    from benchmarks.chaos import processes

    total = ray.cluster_resources().get("object_store_memory", 0.0)
    while time.monotonic() < end:
        roles = {
            role: [psutil.Process(p) for p in processes.pids(role, NAME) if psutil.pid_exists(p)]
            for role in ROLES
        }
        roles["driver"] = [psutil.Process(pid)]
        used = total - ray.available_resources().get("object_store_memory", 0.0)
        soak.look(roles, object_store=used / 2**20, run_folder=folder_mib(folder))
        time.sleep(EVERY_S)


def main() -> int:
    """Run, print the table, write the page; 1 where something grows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    args = parser.parse_args()
    set_environment(private=True)
    # Imported here, not before: Ray reads its authentication mode once, when it is imported.
    from benchmarks.chaos.cluster import cluster_with
    from benchmarks.chaos.command import Command

    warm_up_s = min(WARM_UP_S, 20 * args.minutes)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
        with cluster_with(ROOT / "deploy/serve/shapes.yaml", 4) as address:
            settings = (f"name={NAME}", f"output={name}", *SETTINGS)
            command = Command(
                ROOT / "deploy/configs/smoke.yaml", settings, Path(name) / NAME,
                {"RAY_ADDRESS": address},
            )  # fmt: skip
            command.call()
            command.wait_for_step(1)
            soak = Soak(warm_up_s)
            watch(soak, command.folder, command.pid, time.monotonic() + 60 * args.minutes)
            steps, saving = command.steps(), saving_share(command.folder)
            command.end()
    rows = soak.rows()
    print_table(Console(), f"{args.minutes:g} minutes, {steps} steps", rows, COLUMNS)
    note = NOTE.format(
        minutes=args.minutes, steps=steps, every=CHECKPOINT_EVERY, saving=saving,
        warm=warm_up_s / 60, limit=LIMIT_MIB, files=LIMIT_FILES,
    )  # fmt: skip
    text = f"# Soak\n\n{note}\n\n{markdown(COLUMNS, rows)}\n"
    (RESULTS / "soak.md").write_text(text, encoding="utf-8")
    return int(any(row[-1] == "grows" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
