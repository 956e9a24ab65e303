"""Says now and then whom calls wait for: one line for all calls of a client, not one per call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alphagrpo.deadlines import FIRST_WORD_S

log = logging.getLogger(__name__)


def brief(error: BaseException) -> str:
    """An error in one line: Ray tells of a dead actor in ten."""
    first = next(iter(str(error).splitlines()), "").strip()
    return f"{type(error).__name__}: {first}"


class SilenceTeller:
    """Watches the calls of one client: while some are open and none is answered, it says so.

    For one event loop after another; its timer lives only while calls are open.
    """

    def __init__(
        self, service: str, deadline_s: float, tell: Callable[[str], None] = log.warning
    ) -> None:
        self._service, self._deadline_s, self._tell = service, deadline_s, tell
        self._open = 0
        self._timer: asyncio.TimerHandle | None = None
        self._silent_since = 0.0
        self._pause_s = FIRST_WORD_S
        self._told = False
        self._failure = ""

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A call is open while the body runs."""
        loop = asyncio.get_running_loop()
        self._open += 1
        if self._timer is None:
            self._restart(loop)
        try:
            yield
        finally:
            self._open -= 1
            if self._open == 0 and self._timer is not None:
                self._timer.cancel()
                self._timer = None
                self._told, self._failure = False, ""

    def failed(self, error: BaseException) -> None:
        """An attempt has failed and will be made again."""
        self._failure = f", the last attempt failed with {brief(error)}"

    def heard(self) -> None:
        """An open call was answered."""
        loop = asyncio.get_running_loop()
        if self._told:
            self._tell(f"the {self._service} answers again, after {self._silence_s(loop):.0f} s")
        if self._timer is not None:
            self._timer.cancel()
            self._restart(loop)
        self._told, self._failure = False, ""

    def _restart(self, loop: asyncio.AbstractEventLoop) -> None:
        self._silent_since, self._pause_s = loop.time(), FIRST_WORD_S
        self._timer = loop.call_later(self._pause_s, self._say, loop)

    def _say(self, loop: asyncio.AbstractEventLoop) -> None:
        self._told = True
        self._tell(
            f"waiting for the {self._service}: {self._open} calls, none answered for "
            f"{self._silence_s(loop):.0f} s{self._failure}; each is asked again until its deadline "
            f"of {self._deadline_s:g} s"
        )
        self._timer = loop.call_later(self._pause_s, self._say, loop)
        self._pause_s *= 2

    def _silence_s(self, loop: asyncio.AbstractEventLoop) -> float:
        return loop.time() - self._silent_since
