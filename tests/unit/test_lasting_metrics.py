"""Gauges that are set again while nobody sets them, and counters that begin at 0."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

from alphagrpo.lasting_metrics import GaugeKeeper, start_at_zero


class FakeGauge:
    def __init__(self, enough: int = 10**6) -> None:
        self.values: list[tuple[float, dict[str, str]]] = []
        self.enough, self.seen = enough, threading.Event()

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values.append((value, tags))
        if len(self.values) >= self.enough:
            self.seen.set()


def keepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gauge-keeper"]


def test_a_value_is_set_at_once_and_again_until_another_comes() -> None:
    gauge, keeper = FakeGauge(enough=4), GaugeKeeper(period_s=0.01)
    keeper.set(gauge, 1.5, {"run": "a"})
    assert gauge.values == [(1.5, {"run": "a"})]
    assert gauge.seen.wait(10), "nobody set it again"
    keeper.close()
    assert set(value for value, _ in gauge.values) == {1.5}
    assert all(tags == {"run": "a"} for _, tags in gauge.values)


def test_every_series_is_kept_with_its_last_value() -> None:
    gauge, other, keeper = FakeGauge(), FakeGauge(), GaugeKeeper(period_s=3600)
    keeper.set(gauge, 1.0, {"run": "a"})
    keeper.set(gauge, 2.0, {"run": "b"})
    keeper.set(gauge, 3.0, {"run": "a"})
    keeper.set(other, 4.0, {})
    gauge.values.clear()
    other.values.clear()
    keeper.refresh()
    assert gauge.values == [(3.0, {"run": "a"}), (2.0, {"run": "b"})]
    assert other.values == [(4.0, {})]
    keeper.close()


def test_closing_ends_the_thread_and_values_are_still_set_once() -> None:
    before = len(keepers())
    gauge, keeper = FakeGauge(), GaugeKeeper(period_s=0.01)
    assert len(keepers()) == before, "a keeper of nothing needs no thread"
    keeper.set(gauge, 1.0, {})
    assert len(keepers()) == before + 1
    keeper.close()
    assert len(keepers()) == before
    number = len(gauge.values)
    keeper.set(gauge, 2.0, {})
    assert len(keepers()) == before
    assert gauge.values[number:] == [(2.0, {})]


def test_a_forgotten_keeper_ends_by_itself() -> None:
    others = keepers()
    keeper = GaugeKeeper(period_s=0.01)
    keeper.set(FakeGauge(), 1.0, {})
    (thread,) = [thread for thread in keepers() if thread not in others]
    forgotten = weakref.ref(keeper)
    del keeper
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert forgotten() is None


def test_a_counter_is_there_before_it_counts() -> None:
    recorded: list[Any] = []

    class FakeCounter:
        def _record(self, value: float, tags: dict[str, str]) -> None:
            recorded.append((value, tags))

    start_at_zero(FakeCounter(), {"run": "a"})
    assert recorded == [(0, {"run": "a"})]
