"""Scaling on pending questions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from services.autoscaling import PENDING, desired_replicas, pending_work_policy


@pytest.mark.parametrize(
    ("pending", "replicas"), [(0, 1), (1, 1), (100, 1), (101, 2), (350, 4), (9999, 6)]
)
def test_replicas_follow_pending_work_within_bounds(pending, replicas):
    assert desired_replicas(pending, target=100, current=3, smallest=1, largest=6) == replicas


def _context(queued: float, **pending: float) -> SimpleNamespace:
    return SimpleNamespace(
        aggregated_metrics={PENDING: pending},
        total_queued_requests=queued,
        target_num_replicas=2,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=8,
    )


def test_policy_adds_what_waits_at_callers_to_what_replicas_report():
    replicas, state = pending_work_policy(
        _context(queued=10, a=100.0, b=50.0), target=100, work_per_request=45
    )
    assert state["pending"] == 100 + 50 + 10 * 45
    assert replicas == 6


def test_policy_rests_at_the_smallest_before_any_report():
    context = _context(queued=0)
    context.aggregated_metrics = {}
    assert pending_work_policy(context)[0] == 1
