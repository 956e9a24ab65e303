"""Timing rivals by turns, and what the card or the CPU can do at best, measured in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
Values = dict[str, Tensor]
Contender = Callable[[], Values]
WARM_UP = 2
CLOCK = "wall" if CUDA else "CPU"
"""Milliseconds are wall time on a GPU; on a CPU, which others share, the time it worked for us."""


@dataclass(frozen=True)
class Work:
    """The least a case has to do: every tensor read or written once, every product made once."""

    bytes: float
    operations: float = 0.0


@dataclass(frozen=True)
class Roofs:
    """What was measured of this device: bytes and operations a second."""

    copy: float
    product: float

    def share(self, work: Work, milliseconds: float) -> float:
        """Share of the time that the work would take at the roof, of the time that it took."""
        least = max(work.bytes / self.copy, work.operations / self.product)
        return 1e3 * least / milliseconds


@dataclass(frozen=True)
class Row:
    case: str
    contender: str
    milliseconds: float
    ratio: float | None
    """Eager time over this time: above 1 is faster than eager; None where eager does not run."""
    roof: float
    """See :meth:`Roofs.share`."""
    peak_mib: float | None
    error: float | None
    """Largest absolute difference from float64, of values and gradients; None without a truth."""


def wait() -> None:
    """Until the device has done what it was told."""
    if CUDA:
        torch.cuda.synchronize()


def measure(
    contenders: Mapping[str, Callable[[], object]],
    repeats: int,
    calls: int = 1,
    summary: Callable[[Sequence[float]], float] = statistics.median,
) -> dict[str, float]:
    """Median milliseconds a call of each, run in turns after warm-up turns.

    Rivals run alternately, so that a drifting clock hits all alike. ``calls`` of one contender are
    timed together.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + WARM_UP):
        for name, run in contenders.items():
            wait()
            start = _clock()
            for _ in range(calls):
                run()
            wait()
            if turn >= WARM_UP:
                seconds[name].append((_clock() - start) / calls)
    return {name: 1e3 * summary(values) for name, values in seconds.items()}


_clock = time.perf_counter if CUDA else time.process_time


def peak_mib(run: Callable[[], object]) -> float | None:
    """Memory that a call takes at most beyond what was held before it."""
    if not CUDA:
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def roofs(repeats: int) -> Roofs:
    """The best copy's bytes a second and the best product's operations.

    The product is bfloat16 on a GPU and float32 on a CPU, which widens bfloat16.
    """
    size, side = (2**30, 8192) if CUDA else (2**26, 1024)
    source = torch.ones(size // 4, device=DEVICE)
    target = torch.empty_like(source)
    kind = torch.bfloat16 if CUDA else torch.float32
    a, b = torch.randn(2, side, side, device=DEVICE, dtype=kind).unbind()
    rivals = {"copy": lambda: target.copy_(source), "product": lambda: a @ b}
    least = measure(rivals, repeats, calls=3, summary=min)
    return Roofs(copy=1e3 * 2 * size / least["copy"], product=1e3 * 2 * side**3 / least["product"])


def compare(
    case: str,
    contenders: Mapping[str, Contender],
    baseline: str,
    truth: Values,
    work: Work,
    best: Roofs,
    *,
    repeats: int,
    calls: int = 1,
) -> list[Row]:
    """One row per contender; ``baseline`` names the one to which the others are compared."""
    medians = measure(contenders, repeats, calls)
    eager = medians.get(baseline)
    return [
        Row(
            case,
            name,
            medians[name],
            None if eager is None else eager / medians[name],
            best.share(work, medians[name]),
            peak_mib(run),
            _error(run(), truth),
        )
        for name, run in contenders.items()
    ]


def _error(values: Values, truth: Values) -> float | None:
    known = values.keys() & truth.keys()
    return max(
        ((values[key].double() - truth[key]).abs().max().item() for key in known), default=None
    )


def runnable(contenders: Mapping[str, Contender]) -> tuple[dict[str, Contender], dict[str, str]]:
    """The contenders that run here, and why the others do not."""
    able: dict[str, Contender] = {}
    refusals: dict[str, str] = {}
    for name, run in contenders.items():
        try:
            run()
        except Exception as error:
            if CUDA:
                torch.cuda.empty_cache()  # it may have been out of memory
            refusals[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        else:
            able[name] = run
    return able, refusals


def leaf(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A leaf of its own, so that contenders do not add to each other's gradients; the same data."""
    return tensor.detach().to(dtype or tensor.dtype).requires_grad_()


def grad(tensor: Tensor) -> Tensor:
    """The gradient that reached a leaf."""
    if tensor.grad is None:
        raise RuntimeError("no gradient reached this leaf")
    return tensor.grad
