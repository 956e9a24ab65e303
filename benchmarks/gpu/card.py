"""Seconds and memory of a call, and what a profiler counts of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.timing import CUDA, wait


@dataclass(frozen=True, slots=True)
class Kernels:
    """What ran on the device during a call."""

    number: int
    busy_s: float
    span_s: float
    """From the first kernel's start to the last one's end."""

    @property
    def idle(self) -> float:
        """Share of the span in which nothing ran."""
        return 1.0 - self.busy_s / self.span_s


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Median of ``repeats`` calls."""
    times = []
    for _ in range(repeats):
        wait()
        started = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def kernels_of(call: Callable[[], object]) -> Kernels | None:
    """Kernels of one call; None on a CPU, which has none."""
    if not CUDA:
        return None
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    wait()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        wait()
    events = [e for e in profiler.events() if e.device_type == DeviceType.CUDA]
    if not events:
        return None
    ranges = [event.time_range for event in events]
    busy = sum(r.end - r.start for r in ranges)
    span = max(r.end for r in ranges) - min(r.start for r in ranges)
    return Kernels(len(events), 1e-6 * busy, 1e-6 * span)


def peak_gb(call: Callable[[], object]) -> tuple[float, float]:
    """Largest bytes allocated and reserved during a call, in GB; NaN on a CPU."""
    if not CUDA:
        call()
        return float("nan"), float("nan")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    wait()
    allocated = torch.cuda.max_memory_allocated()
    return allocated / 1e9, torch.cuda.max_memory_reserved() / 1e9
