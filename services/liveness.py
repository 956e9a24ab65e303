"""Whether something that works on requests still puts anything out: for what hangs without dying.

A live process proves nothing, nor does one that is busy. What counts is output: one that owes some
and gives none for long is silent; one that owes nothing has to be asked for a little now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

PROBE_S = 15.0
"""Seconds without output or work after which a probe is due."""
STALL_S = 10.0
"""Seconds between two looks after which this process itself was stopped or starved: what was put
out meanwhile is yet to be read, and the silence begins anew.
"""


class Liveness:
    """Requests in hand, and when there was output for any of them. For one event loop."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._active = 0
        self._heard_at = self._looked_at = clock()
        self._owed_since: float | None = None
        """When the first request after the last output came. It stays when that request gives up:
        impatient callers must not hide a silence.
        """

    @contextmanager
    def requests(self, number: int = 1) -> Iterator[Callable[[], None]]:
        """So many requests are in hand while the body runs.

        It calls what it is given when one of several is answered for good: that one is owed
        nothing more.
        """
        left = number
        self._active += number
        if self._owed_since is None:
            self._owed_since = self._clock()

        def answered() -> None:
            nonlocal left
            self.heard()
            left -= 1
            self._active -= 1

        try:
            yield answered
        finally:
            self._active -= left

    def heard(self) -> None:
        """There was output for a request in hand; the others are owed theirs from now on."""
        self._heard_at = self._clock()
        self._owed_since = self._heard_at if self._active > 1 else None

    def silent_s(self) -> float:
        """Seconds for which output has been owed; to be asked every second or so."""
        now = self._clock()
        if now - self._looked_at > STALL_S and self._owed_since is not None:
            self._owed_since = now
        self._looked_at = now
        return 0.0 if self._owed_since is None else now - self._owed_since

    @property
    def probe_due(self) -> bool:
        """Whether it is idle and was not heard for long: ask it for something small."""
        return self._active == 0 and self._clock() - self._heard_at > PROBE_S
