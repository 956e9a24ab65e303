"""The short walk: two machines, token on, Ray's own commands, a job killed and resumed.

The services are stand-ins here; ``make walk`` takes the real ones, four nodes, and tries what must
be refused.
"""

from __future__ import annotations

import pytest

from benchmarks.walk.__main__ import run_of, scratch
from benchmarks.walk.hosts import ROOT, processes_of
from benchmarks.walk.plan import Plan, Row
from benchmarks.walk.steps import Walk
from tests.stand_in_services import SERVICES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


def test_a_job_is_placed_killed_and_resumed_on_two_nodes() -> None:
    short = {"num_plain": 2, "num_thought": 2, "batch_size": 4}
    plan = Plan(
        pools=("head", "learner"),
        placement={"learner": "learner", "weights": "learner", "rollout": "head"},
        services=SERVICES,
        service_pools={"decomposer": "head", "verifier": "head"},
        run={**run_of(num_steps=4), "evaluation": short},
        pythonpath=str(ROOT),
        is_whole=False,
    )
    rows: list[Row] = []
    with scratch() as folder:
        walk = Walk(folder, plan, rows.append)
        walk.go()
        assert not any(processes_of(host.folder) for host in walk.hosts), "machines are off"
    seen = {row.step: row.seen for row in rows}
    places = seen["where the actors are"]
    assert "learner on learner" in places
    assert "rollout-0 on head" in places
    assert seen["ray job submit ... --resume"].endswith("4 steps, every sample scored")
