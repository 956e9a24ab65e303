"""SIGTERM and SIGINT: finish or abandon what is under way, keep what is done, say so in the code.

Whoever sends the signal kills a little later: the grace. Work is of three kinds. A step may end
where the grace allows. A deployment or an evaluation is abandoned at once. Everything else, such as
writing down a step that was taken, is short and is not interrupted.
"""

from __future__ import annotations

import math
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ONE_SIGNAL_S = 1.0
"""Signals closer together are one: `timeout` sends two, a terminal and its shell one each."""


class Stopped(KeyboardInterrupt):
    """Raised where work is abandoned; asyncio lets KeyboardInterrupts through, and nothing else."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Inside the block the first SIGTERM raises Stopped, as SIGINT raises KeyboardInterrupt: what a
    command deployed is deleted, and what it started ended, before the process is.

    Later ones change nothing. Only in the main thread; a command may have handlers of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, lambda *_: None)
        raise Stopped(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What is under way, if a signal may end it."""

    began: float
    expected_s: float | None
    """How long it takes by what is known of it; None: unknown."""
    reserve_s: float
    """Seconds of the grace that must be left when it ends."""
    waits: bool
    """One signal lets it finish where the grace allows."""

    def late_s(self, left_s: float) -> float:
        """Seconds by which it would miss the end of a grace of which ``left_s`` are left."""
        if self.expected_s is None:
            return 0.0
        remaining_s = max(0.0, self.began + self.expected_s - monotonic())
        return remaining_s + self.reserve_s - left_s


@dataclass(frozen=True, slots=True)
class _Alarm:
    """When the time of a piece of work is over."""

    at: float
    work: _Work | None


class StopSwitch:
    """Remembers that the process was asked to end, and raises Stopped where it may.

    Inside :meth:`abandonable` the first signal raises. Inside :meth:`step` it does where the step
    is expected to end after the grace; else the step goes on, until it ends, the grace does, or
    another signal comes. Elsewhere a signal is only remembered, until the grace is over: then the
    next one raises there too.
    """

    def __init__(
        self, grace_s: float = math.inf, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        """Not armed yet.

        Args:
            grace_s: seconds from a signal to the end of the process, as its sender gives.
            tell: is given a line about a step that goes on, from another thread.
        """
        self.grace_s, self._tell = grace_s, tell
        self.number: signal.Signals | None = None
        """The first signal; None while none has come."""
        self._pulled_at = self._newest_at = 0.0
        self._work: _Work | None = None
        self._errands: queue.SimpleQueue[_Alarm | str | None] = queue.SimpleQueue()
        """For the watch: when to ring, a line to tell, or that it may end."""
        self._rung: _Alarm | None = None
        """Of which the handler has not heard yet."""

    @property
    def pulled(self) -> bool:
        """A signal has come."""
        return self.number is not None

    @property
    def reason(self) -> str:
        """Name of the signal; empty while none has come."""
        return self.number.name if self.number else ""

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it: 143 or 130; 0 while none has come."""
        return 128 + self.number if self.number else 0

    @property
    def left_s(self) -> float:
        """Seconds of the grace that are left; all of it while no signal has come."""
        return self.grace_s - (monotonic() - self._pulled_at if self.pulled else 0.0)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Handle both signals inside the block, in the main thread."""
        kept: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        watch = threading.Thread(target=self._watch, name="stop-watch", daemon=True)
        watch.start()
        for number in SIGNALS:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            self._errands.put(None)
            watch.join()  # before the handlers go: it rings with a signal that would kill
            for kept_number, handler in kept.items():
                signal.signal(kept_number, handler)

    @contextmanager
    def step(self, expected_s: float | None = None, reserve_s: float = 0.0) -> Iterator[None]:
        """Work that one signal lets finish where the grace allows; raises at once where it is over.

        Args:
            expected_s: how long it takes, by earlier ones; None: unknown.
            reserve_s: what must be left of the grace then, to write a checkpoint.
        """
        with self._working(_Work(monotonic(), expected_s, reserve_s, waits=True)):
            if self.pulled:
                self._wait_or_raise()
            yield

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """Work that the first signal abandons, also one that came before it."""
        with self._working(_Work(monotonic(), None, 0.0, waits=False)):
            if self.pulled:
                self._abandon()
            yield

    @contextmanager
    def _working(self, work: _Work) -> Iterator[None]:
        self._work = work
        try:
            yield
        finally:
            self._work = None
            self._errands.put(_Alarm(math.inf, work))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._rung is not None:
            rung, self._rung = self._rung, None
            if rung.work is self._work:
                self._abandon()
            return
        now, again = monotonic(), self.pulled
        bounced = again and now - self._newest_at < ONE_SIGNAL_S
        self._newest_at = now
        if bounced:
            return
        if not again:
            self.number, self._pulled_at = signal.Signals(number), now
        if self._work is None:
            if again and self.left_s <= 0:
                self._abandon()
        elif again or not self._work.waits:
            self._abandon()
        else:
            self._wait_or_raise()
            self._errands.put(f"{self.reason}: the work in hand may end{self._within()}")

    def _wait_or_raise(self) -> None:
        """Let the step in hand end while there is time, or abandon it where there will be none."""
        work = self._work
        assert work is not None
        left_s = self.left_s
        if left_s <= work.reserve_s or work.late_s(left_s) > 0:
            self._abandon()
        self._errands.put(_Alarm(monotonic() + left_s - work.reserve_s, work))

    def _abandon(self) -> None:
        """What runs while it is left, and after it, is not interrupted."""
        self._work = None
        raise Stopped(self.reason)

    def _within(self) -> str:
        return f" within {self.left_s:.0f} s" if math.isfinite(self.grace_s) else ""

    def _watch(self) -> None:
        """Tell lines, and ring when a step's time is over.

        A thread that is there already, and a queue that a signal may use at any moment: a handler
        that starts threads or takes locks may wait for the very code it interrupted.
        """
        alarm = never = _Alarm(math.inf, None)
        while True:
            wait_s = min(max(alarm.at - monotonic(), 0.0), threading.TIMEOUT_MAX)
            try:
                errand = self._errands.get(timeout=wait_s)
            except queue.Empty:
                self._rung, alarm = alarm, never
                # One signal more, which wakes the main thread whatever it waits for.
                signal.pthread_kill(threading.main_thread().ident or 0, SIGNALS[0])
                continue
            if errand is None:
                return
            if isinstance(errand, str):
                with suppress(Exception):  # whom nobody hears may still save
                    self._tell(errand)
            else:
                alarm = errand
