"""The card: its roofs as measured, seconds of a call, and what a profiler counts of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Roofs:
    """What the card reaches at best, measured in this run."""

    copy_gb_s: float
    """Bytes read and written a second by a large copy."""
    matmul_tflops: float
    """Of a large product in bfloat16 on a GPU, in float32 on a CPU."""


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


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Median of ``repeats`` calls."""
    times = []
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def roofs(device: torch.device) -> Roofs:
    """Copy and product, of sizes at which launching them is nothing."""
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    side, mib = (8192, 2048) if on_gpu else (1024, 64)
    source = torch.zeros(mib * MIB, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    for call in (lambda: target.copy_(source), lambda: a @ b):
        call()
    copied = seconds(lambda: target.copy_(source), device, 5)
    multiplied = seconds(lambda: a @ b, device, 5)
    return Roofs(2e-9 * source.nbytes / copied, 2e-12 * side**3 / multiplied)


def kernels_of(call: Callable[[], object], device: torch.device) -> Kernels | None:
    """Kernels of one call; None on a CPU, which has none."""
    if device.type != "cuda":
        return None
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    wait(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        wait(device)
    events = [e for e in profiler.events() if e.device_type == DeviceType.CUDA]
    if not events:
        return None
    ranges = [event.time_range for event in events]
    busy = sum(r.end - r.start for r in ranges)
    span = max(r.end for r in ranges) - min(r.start for r in ranges)
    return Kernels(len(events), 1e-6 * busy, 1e-6 * span)


def peak_gb(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Largest bytes allocated and reserved during a call, in GB; NaN on a CPU."""
    if device.type != "cuda":
        call()
        return float("nan"), float("nan")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    call()
    wait(device)
    allocated = torch.cuda.max_memory_allocated(device)
    return allocated / 1e9, torch.cuda.max_memory_reserved(device) / 1e9
