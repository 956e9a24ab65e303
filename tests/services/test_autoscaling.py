"""Scaling on work: what a replica reports, and how many replicas a load is given over time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve import autoscaling_policy as serve_policy
from ray.serve.config import AutoscalingConfig

from services.autoscaling import PENDING, RATE, SIZE, PendingWorkPolicy, WorkMeter

QUESTIONS = 45
"""Questions of a picture."""
Load = Callable[[int], int]
"""Second to pictures that come in it."""


class Replica:
    """Answers ``speed`` questions a second and reports every ``record_s``, as one under Serve."""

    def __init__(self, clock: Callable[[], float], speed: float) -> None:
        self.meter = WorkMeter(clock)
        self.speed = speed
        self.pictures: deque[float] = deque()
        """Questions left of each."""
        self.points: dict[str, list[Any]] = {}
        self.pushed: dict[str, list[Any]] = {}

    def take(self) -> None:
        self.pictures.append(QUESTIONS)
        self.meter.take(QUESTIONS)

    def work(self) -> None:
        left = self.speed
        while self.pictures and left > 0:
            step = min(left, self.pictures[0])
            self.pictures[0] -= step
            left -= step
            if self.pictures[0] <= 0:
                self.pictures.popleft()
                self.meter.finish(QUESTIONS, answered=True)

    def record(self, now: float, look_back_s: float) -> None:
        for key, value in self.meter.report().items():
            points = self.points.setdefault(key, [])
            points.append(SimpleNamespace(timestamp=now, value=value))
            self.points[key] = [point for point in points if point.timestamp >= now - look_back_s]


class Cluster:
    """A second at a time: callers, replicas, and Serve's own factors, delays and bounds."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        policy: Callable[..., Any],
        speed: float,
        **config: Any,
    ) -> None:
        self.now = 1000.0
        monkeypatch.setattr(serve_policy, "time", SimpleNamespace(time=lambda: self.now))
        options = {"min_replicas": 1, "max_replicas": 3, "look_back_period_s": 20.0}
        delays = {"upscale_delay_s": 10.0, "downscale_delay_s": 30.0}
        self.config = AutoscalingConfig(**{**options, **delays, **config})
        self.policy = serve_policy._apply_autoscaling_config(policy)
        self.speed = speed
        self.state: dict[str, Any] = {}
        self.replicas = [Replica(lambda: self.now, speed)]
        self.coming: list[float] = []
        self.start_s = 15.0
        self.target = 1

    def run(self, load: Load, seconds: int) -> list[int]:
        """Replicas asked for, second by second."""
        return [self._second(load(second)) for second in range(seconds)]

    def _second(self, pictures: int) -> int:
        self.now += 1.0
        for _ in range(pictures):
            min(self.replicas, key=lambda replica: len(replica.pictures)).take()
        for replica in self.replicas:
            replica.work()
            if self.now % 4 == 0:
                replica.record(self.now, self.config.look_back_period_s)
            if self.now % 10 == 0:
                replica.pushed = {key: list(points) for key, points in replica.points.items()}
        self._scale()
        return self.target

    def _scale(self) -> None:
        self.target, self.state = self.policy(self._context())
        self.target = min(max(self.target, self.config.min_replicas), self.config.max_replicas)
        while len(self.replicas) + len(self.coming) < self.target:
            self.coming.append(self.now + self.start_s)
        ready = [at for at in self.coming if at <= self.now]
        self.coming = [at for at in self.coming if at > self.now]
        self.replicas += [Replica(lambda: self.now, self.speed) for _ in ready]
        while len(self.replicas) > self.target:
            leaving = self.replicas.pop()
            for picture in leaving.pictures:
                self.replicas[0].pictures.append(picture)
                self.replicas[0].meter.take(QUESTIONS)

    def _context(self) -> Any:
        raw: dict[str, dict[int, list[Any]]] = {}
        for number, replica in enumerate(self.replicas):
            for key, points in replica.pushed.items():
                raw.setdefault(key, {})[number] = points
        return SimpleNamespace(
            raw_metrics=raw,
            total_queued_requests=0.0,
            # What replicas report must be enough: Serve only has samples of moments.
            total_num_requests=0.0,
            current_num_replicas=len(self.replicas),
            target_num_replicas=self.target,
            capacity_adjusted_min_replicas=self.config.min_replicas,
            capacity_adjusted_max_replicas=self.config.max_replicas,
            policy_state=dict(self.state),
            current_time=self.now,
            config=self.config,
        )


def changes(counts: list[int]) -> list[int]:
    """The counts one after another, without repetitions."""
    return counts[:1] + [new for old, new in pairwise(counts) if new != old]


def never(second: int) -> int:
    return 0


def bursts(every: int, pictures: int = 14) -> Load:
    """A group of pictures at once every few seconds: what a runner asks."""
    return lambda second: pictures if second % every == 0 else 0


def steady(per_second: float) -> Load:
    """Pictures one by one, whether or not the ones before are answered."""
    return lambda second: int((second + 1) * per_second) - int(second * per_second)


POLICY = {"target": 256.0, "work_per_request": 45.0, "window_s": 60.0}


@pytest.mark.parametrize("every", [5, 8, 13, 55])
@pytest.mark.parametrize("speed", [150.0, 700.0])
def test_bursts_are_given_three_replicas_until_they_end(
    monkeypatch: pytest.MonkeyPatch, every: int, speed: float
) -> None:
    cluster = Cluster(monkeypatch, PendingWorkPolicy(**POLICY), speed)
    during, after = cluster.run(bursts(every), 900), cluster.run(never, 300)
    assert during[-1] == 3
    assert sorted(during) == during, "a replica was taken away from a load that went on"
    assert after[-1] == 1
    assert sorted(after, reverse=True) == after, "a replica was added after the load had ended"


@pytest.mark.parametrize("load", [2.2, 2.5, 2.9])
def test_a_steady_load_keeps_what_it_needs_though_nothing_waits_any_more(
    monkeypatch: pytest.MonkeyPatch, load: float
) -> None:
    # One replica answers one picture a second: three answer as they come, and little is in hand.
    cluster = Cluster(monkeypatch, PendingWorkPolicy(**POLICY), speed=QUESTIONS)
    during, after = cluster.run(steady(load), 1800), cluster.run(never, 300)
    assert changes(during) in ([1, 2, 3], [1, 3])
    assert changes(after) in ([3, 2, 1], [3, 1])


def test_a_light_load_is_given_one_replica_whatever_it_began_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch, PendingWorkPolicy(**POLICY), speed=150.0)
    cluster.replicas += [Replica(lambda: cluster.now, 150.0)]
    cluster.target = 2
    assert changes(cluster.run(steady(0.5), 300)) == [2, 1]


def context(**given: Any) -> Any:
    fields = {
        "raw_metrics": {},
        "total_queued_requests": 0.0,
        "total_num_requests": 0.0,
        "target_num_replicas": 1,
        "capacity_adjusted_min_replicas": 1,
        "capacity_adjusted_max_replicas": 8,
        "policy_state": {},
        "current_time": 0.0,
    }
    return SimpleNamespace(**{**fields, **given})


def points(*values: float) -> list[Any]:
    return [SimpleNamespace(timestamp=float(at), value=value) for at, value in enumerate(values)]


def test_what_waits_at_callers_is_counted_in_questions_of_the_replicas_own_requests() -> None:
    policy = PendingWorkPolicy(target=100, work_per_request=45)
    reports = {
        PENDING: {"a": points(100, 20), "b": points(50)},
        SIZE: {"a": points(10), "b": points(30)},
    }
    replicas, state = policy(context(raw_metrics=reports, total_queued_requests=7.0))
    assert state["work"] == [(0.0, 100 + 50 + 7 * 20)]
    assert replicas == 3


def test_before_the_first_report_serves_own_count_is_taken() -> None:
    policy = PendingWorkPolicy(target=100, work_per_request=45)
    assert policy(context(total_num_requests=10.0))[0] == 5
    assert policy(context())[0] == 1


def test_replicas_stay_within_bounds() -> None:
    policy = PendingWorkPolicy(target=1, work_per_request=45)
    assert policy(context(total_num_requests=1e6))[0] == 8
    assert policy(context(capacity_adjusted_min_replicas=2))[0] == 2


def test_the_largest_work_counts_until_the_window_has_passed() -> None:
    policy, state = PendingWorkPolicy(target=1, work_per_request=1, window_s=60), {}
    seen = []
    for second, work in [
        (0, 5.0),
        (20, 3.0),
        (40, 1.0),
        (60, 1.0),
        (61, 1.0),
        (81, 1.0),
        (101, 1.0),
    ]:
        now = float(second)
        replicas, state = policy(
            context(total_num_requests=work, policy_state=state, current_time=now)
        )
        seen.append(replicas)
    assert seen == [5, 5, 5, 5, 3, 1, 1]


def test_state_stays_small_when_serve_asks_ten_times_a_second() -> None:
    policy, state = PendingWorkPolicy(window_s=60), {}
    for tick in range(3000):
        _, state = policy(
            context(total_num_requests=1e6 / (tick + 1), policy_state=state, current_time=tick / 10)
        )
    assert len(state["work"]) <= 62


def test_a_replica_reports_its_peak_its_rate_and_the_size_of_requests() -> None:
    now = [0.0]
    meter = WorkMeter(lambda: now[0])
    assert meter.report()[SIZE] == 0.0
    meter.take(30)
    meter.take(10)
    meter.finish(30, answered=True)
    meter.finish(10, answered=False)
    now[0] = 4.0
    assert meter.report() == {PENDING: 40.0, RATE: 7.5, SIZE: 20.0}
    assert meter.in_hand == 0
    now[0] = 5.0
    assert meter.report() == {PENDING: 0.0, RATE: 0.0, SIZE: 20.0}


@pytest.mark.parametrize("name", ["target", "work_per_request", "window_s"])
def test_a_setting_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*above 0"):
        PendingWorkPolicy(**{name: 0.0})


def test_serve_gives_the_policy_its_settings() -> None:
    # Serve hands policy_kwargs to a class only, and says nothing where it drops them.
    from ray.serve._private.autoscaling_state import _resolve_policy_callable

    config = AutoscalingConfig(
        policy={
            "policy_function": "services.autoscaling:PendingWorkPolicy",
            "policy_kwargs": {"target": 512, "work_per_request": 45, "window_s": 300},
        }
    )
    policy = _resolve_policy_callable(config.policy)
    assert (policy.target, policy.work_per_request, policy.window_s) == (512, 45, 300)
