"""Metrics that are there at every scrape, over an exporter that forgets.

Ray exports a gauge once after it is set and drops it two report intervals later (20 s), and has no
counter before its first increment. Without Ray: any object with a gauge's ``set`` will do.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

REFRESH_S = 1.0
"""Seconds between two settings of a kept gauge: the shortest report interval Ray takes."""

Tags = Mapping[str, str]


class Gauge(Protocol):
    """What of a gauge is used."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Record a value of the series with these tags."""
        ...


class GaugeKeeper:
    """Sets gauges, and sets each again every few seconds until it is closed.

    One thread, which starts with the first value and ends with :meth:`close`, with the keeper
    itself, or with the process.
    """

    def __init__(self, period_s: float = REFRESH_S) -> None:
        self._period_s = period_s
        self._values: dict[tuple[Gauge, frozenset[tuple[str, str]]], float] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def set(self, gauge: Gauge, value: float, tags: Tags) -> None:
        """Show ``value`` from now on, until another is set."""
        with self._lock:
            self._values[gauge, frozenset(tags.items())] = value
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=_refresh,
                    args=(weakref.ref(self), self._closed, self._period_s),
                    name="gauge-keeper",
                    daemon=True,
                )
                self._thread.start()
        gauge.set(value, tags=dict(tags))

    def refresh(self) -> None:
        """Set every gauge again."""
        with self._lock:
            values = list(self._values.items())
        for (gauge, tags), value in values:
            gauge.set(value, tags=dict(tags))

    def close(self) -> None:
        """End the thread; the exporter then forgets the gauges by itself."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def __del__(self) -> None:
        self._closed.set()


def _refresh(keeper: weakref.ref[GaugeKeeper], closed: threading.Event, period_s: float) -> None:
    while not closed.wait(period_s):
        kept = keeper()
        if kept is None:
            return
        kept.refresh()
        # Only the weak reference is held while waiting, or the keeper would never end.
        del kept


def start_at_zero(counter: Any, tags: Tags) -> None:
    """Make a series of one of Ray's counters exist before it is counted.

    A rate over a series that begins at 1 misses the first event. ``inc`` refuses 0, the metric
    beneath does not.
    """
    counter._record(0, tags=dict(tags))
