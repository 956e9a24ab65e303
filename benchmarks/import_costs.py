"""What an import costs: CPU seconds, peak memory and the heavy packages it loads, on Linux."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HEAVY = ("torch", "transformers", "ray", "ray.rllib", "vllm")
RUNS = 3
TIMEOUT_S = 600
# The peak is not ru_maxrss, which a child starts with at its parent's peak.
PROBE = """
import importlib, json, os, re, resource, sys
root, heavy, *call = json.loads(sys.argv[1])
report = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
# An editable install of another checkout would answer for modules that this one lacks.
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
if call:
    module = importlib.import_module(call[0])
    if not os.path.realpath(module.__file__ or "").startswith(root + os.sep):
        sys.exit(f"{call[0]} is not in this tree")
    if call[1:] and (code := module.main(call[1:])):
        sys.exit(code)
used = resource.getrusage(resource.RUSAGE_SELF)
with open("/proc/self/status") as status:
    peak_kb = int(re.search(r"VmHWM:\\s*(\\d+)", status.read())[1])
loaded = [name for name in heavy if name in sys.modules]
os.write(report, json.dumps([used.ru_utime + used.ru_stime, peak_kb / 1024, loaded]).encode())
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over fresh processes."""

    cpu_s: float
    """User and system time, the start of Python included."""
    peak_mb: float
    """Most resident memory, MiB."""
    loaded: list[str]
    """Which of the heavy packages were in ``sys.modules`` at the end."""


class Absent(Exception):
    """There is no cost to measure; says why."""


def run_once(root: Path, *call: str) -> tuple[float, float, list[str]]:
    """CPU seconds, peak MiB and heavy packages of one process; raises ``Absent`` if it fails."""
    program = [sys.executable, "-c", PROBE, json.dumps([str(root), HEAVY, *call])]
    env = os.environ | {"PYTHONPATH": str(root)}
    try:
        done = subprocess.run(
            program, capture_output=True, text=True, cwd=root, env=env, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise Absent(f"no end after {TIMEOUT_S} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Absent(said[-1])
    seconds, peak, loaded = json.loads(done.stdout)
    return seconds, peak, loaded


def import_cost(root: Path, *call: str) -> Cost | Absent:
    """What it costs to import a module of the tree at ``root``, given by its name.

    Arguments after the name go to the module's ``main``, whose output is dropped. Without a name it
    is the cost of Python alone.
    """
    try:
        runs = [run_once(root.resolve(), *call) for _ in range(RUNS)]
    except Absent as absent:
        return absent
    seconds, peaks, loaded = zip(*runs, strict=True)
    heavy = [name for name in HEAVY if any(name in names for names in loaded)]
    return Cost(statistics.median(seconds), statistics.median(peaks), heavy)
