"""SIGTERM and SIGINT: finish or abandon what is under way, keep what is done, exit 0."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """Raised where work is abandoned; asyncio lets KeyboardInterrupts through, and nothing else."""


class StopSwitch:
    """Remembers that the process was asked to end.

    Inside :meth:`step` the first signal waits for the step's end and the second abandons it;
    outside the first one abandons what is under way (an evaluation, a deployment).
    """

    def __init__(self) -> None:
        self.reason = ""
        self.step_abandoned = False
        """A step was cut short: learner and loop may stand at different steps."""
        self._in_step = False

    @property
    def pulled(self) -> bool:
        """A signal has come."""
        return bool(self.reason)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Handle both signals inside the block, in the main thread."""
        kept: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        self.arm()
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def arm(self) -> None:
        """Take both signals (again: a starting Ray installs a SIGTERM handler of its own)."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Work that one signal lets finish."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = not self.pulled
        self.reason = signal.Signals(number).name
        if not (self._in_step and first):
            self.step_abandoned = self._in_step
            raise Stopped(self.reason)
