"""An event loop whose clock is moved, not waited for: neither sleeping nor work takes time.

What it shows is what the rules of the mesh cost, who waits for whom, and nothing else. It repeats
itself exactly.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Moves the clock by what it was asked to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits for another one: nothing will ever happen")
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time is the sum of what was slept, in seconds from 0."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Seconds slept so far."""
        return self._clock.now


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` without waiting; nothing in it may wait for a thread or a socket."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
