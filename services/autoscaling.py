"""Scaling by work, not by requests: one picture is one request, but may hold fifty questions.

Named in a Serve config as ``services.autoscaling:pending_work_policy``; it must be importable where
``serve deploy`` runs and on the head node, not only in the replicas.
"""

from __future__ import annotations

import math
from typing import Any

PENDING = "pending_work"
"""Key under which replicas report how many questions (or prompts) they have in hand."""


def desired_replicas(
    pending: float, *, target: float, current: int, smallest: int, largest: int
) -> int:
    """Replicas that bring pending work to ``target`` each, within [smallest, largest].

    With nothing pending it is the smallest; Serve's own delays keep this from flapping.
    """
    if pending < 0 or target <= 0:
        return current
    return min(max(math.ceil(pending / target), smallest, 0), largest)


def pending_work_policy(
    ctx: Any, target: float = 128.0, work_per_request: float = 8.0
) -> tuple[int, dict[str, Any]]:
    """Serve's policy signature: (replicas to have, state).

    ``target``: work one replica should have in hand. ``work_per_request``: what a request still
    queued at a caller, which no replica has counted yet, is taken to hold.
    """
    reports = ctx.aggregated_metrics.get(PENDING, {})
    queued = float(ctx.total_queued_requests or 0.0)
    pending = sum(float(value) for value in reports.values()) + queued * work_per_request
    replicas = desired_replicas(
        pending,
        target=target,
        current=ctx.target_num_replicas,
        smallest=ctx.capacity_adjusted_min_replicas,
        largest=ctx.capacity_adjusted_max_replicas,
    )
    return replicas, {"pending": pending}
