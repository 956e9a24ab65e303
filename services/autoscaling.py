"""Scaling by work, not by requests: one picture is one request, but may hold fifty questions.

Named in a Serve config as ``services.autoscaling:PendingWorkPolicy``; it must be importable where
``serve deploy`` runs and on the head node, not only in the replicas. It is a class because Serve
ignores the ``policy_kwargs`` of a function.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

PENDING = "pending_work"
"""Key of a replica's report: the most work it had in hand at once since the report before."""
RATE = "answered_work_per_s"
"""Key of a replica's report: work answered since the report before, per second."""
SIZE = "work_per_request"
"""Key of a replica's report: mean work of its requests so far; 0 before the first."""

_HEADROOM = 1.1
"""Answered work is spread over so many replicas that none has to answer more than 1 / this of what
one can: a queue at full load never gets shorter.
"""

History = list[tuple[float, float]]
"""Times and values, values falling: the first is the largest of the window."""


class WorkMeter:
    """What one replica has in hand (questions, prompts), and what it reports to the policy.

    A report is asked for every few seconds, and a burst may come and go between two: so it holds
    the largest work in hand since the report before, not that of the moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.in_hand = 0
        """Work taken and not yet answered."""
        self._peak = 0
        self._answered = 0
        self._taken = 0
        self._requests = 0
        self._reported_at = clock()

    def take(self, work: int) -> None:
        """A request with ``work`` has come."""
        self.in_hand += work
        self._peak = max(self._peak, self.in_hand)
        self._taken += work
        self._requests += 1

    def finish(self, work: int, *, answered: bool) -> None:
        """A request with ``work`` has gone, with an answer or without."""
        self.in_hand -= work
        self._answered += work if answered else 0

    def report(self) -> dict[str, float]:
        """:data:`PENDING`, :data:`RATE` and :data:`SIZE`, as ``record_autoscaling_stats`` does."""
        now = self._clock()
        seconds = max(now - self._reported_at, 1e-3)
        report = {
            PENDING: float(self._peak),
            RATE: self._answered / seconds,
            SIZE: self._taken / max(self._requests, 1),
        }
        self._peak, self._answered, self._reported_at = self.in_hand, 0, now
        return report


class PendingWorkPolicy:
    """Serve's policy: as many replicas as the largest work of the last ``window_s`` needs.

    A rollout asks in bursts, all pictures of a group at once, and waits for the last answer. So
    what counts is the most work in hand at once. It is set by the callers and stays what it is when
    replicas are added, unlike the mean, which falls with every replica that answers faster: a
    policy that follows the mean takes a replica away as soon as it helps. The window has to be
    longer than the time between two bursts.

    ``target``: work one replica should have in hand at most. Where replicas answer so fast that
    little is ever in hand, the rate says what is needed: no replica is taken away while the others
    could not answer as much as is answered now. What one can answer is learned from replicas that
    had their target in hand.

    Work of a replica is what it reports, exactly; that of requests which still wait at a caller is
    Serve's count of them times the mean work of a request: ``work_per_request`` until one was
    reported.
    """

    def __init__(
        self, target: float = 128.0, work_per_request: float = 8.0, window_s: float = 60.0
    ) -> None:
        if min(target, work_per_request, window_s) <= 0:
            raise ValueError(
                "policy_kwargs target, work_per_request and window_s must be above 0, got "
                f"{target}, {work_per_request} and {window_s}; correct them in the Serve config"
            )
        self.target = target
        self.work_per_request = work_per_request
        self.window_s = window_s

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Serve's signature: (replicas to have, state that comes back as ``ctx.policy_state``)."""
        reports = ctx.raw_metrics or {}
        state = ctx.policy_state
        work = self._push(state.get("work", []), ctx, self._work(ctx, reports))
        rate = self._push(state.get("rate", []), ctx, _total(_means(reports.get(RATE, {}))))
        capacity = max(state.get("capacity", 0.0), self._shown_capacity(reports))
        replicas = math.ceil(work[0][1] / self.target)
        if capacity > 0:
            kept = math.ceil(_HEADROOM * rate[0][1] / capacity)
            replicas = max(replicas, min(kept, ctx.target_num_replicas))
        replicas = max(replicas, ctx.capacity_adjusted_min_replicas)
        replicas = min(replicas, ctx.capacity_adjusted_max_replicas)
        return replicas, {"work": work, "rate": rate, "capacity": capacity}

    def _work(self, ctx: Any, reports: Mapping[str, Any]) -> float:
        """Work in hand and waiting, of the last reports.

        Serve's count of all ongoing requests is the least it can be: it has those of a replica
        that has not reported yet.
        """
        sizes = [points[-1].value for points in reports.get(SIZE, {}).values() if points]
        known = [size for size in sizes if size > 0]
        size = sum(known) / len(known) if known else self.work_per_request
        reported = _total(_peaks(reports.get(PENDING, {})))
        queued = float(ctx.total_queued_requests or 0.0)
        return max(reported + queued * size, float(ctx.total_num_requests or 0.0) * size)

    def _shown_capacity(self, reports: Mapping[str, Any]) -> float:
        """The most that a replica with its target in hand has answered per second."""
        busy = {
            (replica, point.timestamp)
            for replica, points in reports.get(PENDING, {}).items()
            for point in points
            if point.value >= self.target
        }
        rates = [
            point.value
            for replica, points in reports.get(RATE, {}).items()
            for point in points
            if (replica, point.timestamp) in busy
        ]
        return max(rates, default=0.0)

    def _push(self, history: History, ctx: Any, value: float) -> History:
        """``history`` with ``value``, without what is past the window or can no longer lead it."""
        now = ctx.current_time
        kept = [(at, old) for at, old in history if old > value and at >= now - self.window_s]
        # Serve asks ten times a second; of values that fall slowly one a second is enough.
        return kept if kept and now - kept[-1][0] < 1.0 else [*kept, (now, value)]


def _peaks(series: Mapping[Any, Sequence[Any]]) -> list[float]:
    """The largest value of each replica's points."""
    return [max(point.value for point in points) for points in series.values() if points]


def _means(series: Mapping[Any, Sequence[Any]]) -> list[float]:
    """The mean value of each replica's points."""
    sums = [(sum(point.value for point in points), len(points)) for points in series.values()]
    return [total / number for total, number in sums if number]


def _total(values: Sequence[float]) -> float:
    return float(sum(values))
