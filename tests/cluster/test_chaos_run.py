"""A run that loses a process of every kind of its own is the run that lost none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.short_chaos import FOUND, KINDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]


def test_a_run_that_is_killed_and_damaged_is_the_run_that_was_left_alone(tmp_path: Path) -> None:
    # Paths of Ray's sockets have to be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as session:
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-m", "tests.short_chaos", str(tmp_path)],
            env={**environment, "RAY_TMPDIR": session, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=1400,
        )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    found = json.loads((tmp_path / FOUND).read_text(encoding="utf-8"))
    verdict = found["verdict"]
    assert found["events"] == [kind.name for kind in KINDS]
    assert found["ended by"] == [], "none but the driver's death ends the command"
    assert (verdict["lost"], verdict["twice"]) == (0, 0)
    assert verdict["same_ledger"]
    assert verdict["same_weights"]
    assert verdict["groups"] == 4 * verdict["steps"]
