"""vLLM's own metrics through Ray's exporter, there at every scrape.

vLLM sets its gauges while it works and leaves them alone while it is idle, and counts from its
first request on: an engine without work would vanish from the exporter. Imports vLLM, so only an
engine that starts imports this.
"""

from __future__ import annotations

from typing import Any, cast

from vllm.v1.metrics.ray_wrappers import (
    RayCounterWrapper,
    RayGaugeWrapper,
    RayPrometheusStatLogger,
)

from alphagrpo.lasting_metrics import GaugeKeeper, start_at_zero

_keeper = GaugeKeeper()


class KeptGauge(RayGaugeWrapper):  # type: ignore[misc]
    """A gauge of vLLM's that stays where it was set."""

    def set(self, value: float) -> None:
        """Show ``value`` until the next."""
        _keeper.set(cast(Any, self.metric), value, self._tags)


class CounterFromZero(RayCounterWrapper):  # type: ignore[misc]
    """A counter of vLLM's that is there before its first event."""

    def labels(self, *labels: Any, **named: Any) -> CounterFromZero:
        """The series with these labels."""
        series = cast(CounterFromZero, super().labels(*labels, **named))
        start_at_zero(series.metric, series._tags)
        return series


class EngineMetrics(RayPrometheusStatLogger):  # type: ignore[misc]
    """A stat logger for ``AsyncLLM.from_engine_args(stat_loggers=[...])``."""

    _gauge_cls = KeptGauge
    _counter_cls = CounterFromZero
