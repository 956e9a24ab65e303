"""From a laptop to a cluster, walked: nodes, token, services, a job killed and resumed, its report.

``make walk`` (``python -m benchmarks.walk``) does what the README says on machines that are folders
of this one: homes, temp dirs and working directories differ, one shared folder is the same for all.
It prints each step with its seconds and what was seen, and fails at the first that is not as said.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from alphagrpo.cli.console import print_table
from benchmarks.running import RESULTS
from benchmarks.tables import markdown
from benchmarks.walk.hosts import ROOT
from benchmarks.walk.plan import Plan, Row, WalkFailed
from benchmarks.walk.steps import Walk

COLUMNS = ("step", "seconds", "seen")
NOTE = """Printed by `make walk`: one machine of two cores that stands for four nodes, both engines
real. Seconds are of one run on a machine that was shared: what was seen is what counts."""


def whole_plan() -> Plan:
    """Both real engines, four nodes, four steps."""
    services = yaml.safe_load((ROOT / "deploy/serve/shapes.yaml").read_text(encoding="utf-8"))
    return Plan(services=services, run=run_of(num_steps=4))


def run_of(*, num_steps: int) -> dict[str, Any]:
    """A run that saves every step."""
    return {"training": {"num_steps": num_steps, "checkpoint_every": 1, "max_minutes": None}}


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a short name: Ray's sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="walk-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def main() -> int:
    """Walk and print the table."""
    argparse.ArgumentParser(prog="python -m benchmarks.walk", description=__doc__).parse_args()
    console = Console()

    def tell(row: Row) -> None:
        console.print(f"{row.seconds:6.1f} s  {row.step}: {row.seen}", markup=False, soft_wrap=True)

    with scratch() as folder:
        walk = Walk(folder, whole_plan(), tell)
        try:
            walk.go()
        except WalkFailed as error:
            console.print(f"failed: {error}", markup=False)
            return 1
    rows = [(row.step, f"{row.seconds:.0f}", row.seen) for row in walk.rows]
    print_table(console, "the walk", rows, COLUMNS)
    text = f"# The walk\n\n{NOTE}\n\n{markdown(COLUMNS, rows)}\n"
    (RESULTS / "walk.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
