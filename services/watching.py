"""A replica whose engine is dead or silent ends its own process, at once.

Serve asks a replica for its health every few seconds, waits for three failures in a row, and lets
the replica drain; meanwhile its router prefers the replica that has the least in hand, which is the
one that fails every call at once. A process that has died is known to every caller with its next
call, which goes to another replica, and to Serve with its next look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import Protocol

import psutil

log = logging.getLogger("ray.serve")

LOOK_S = 1.0
"""Seconds between two looks; what dies audibly is looked at without waiting for them."""
HEALTH_PERIOD_S = 3.0
"""Seconds between Serve's own looks: how long it may take Serve to see that a replica has ended,
and so when it starts another. The check costs a replica nothing.
"""
HEALTH_TIMEOUT_S = 30.0
"""Seconds for a replica's event loop to answer a look; Serve ends one that is late three times."""


class Watched(Protocol):
    """What a replica answers with: an engine, or a policy that draws."""

    alarm: asyncio.Event
    """Set when something has happened that may be its end."""

    @property
    def closed(self) -> bool:
        """Whether it was shut down on purpose."""
        ...

    def failure(self) -> str | None:
        """Why it can answer nothing any more; None where it can."""
        ...


def leave(reason: str) -> None:
    """End this process and all it has started, also what is stopped or does not listen.

    Calls in hand fail with Ray's error for a dead actor, which clients take for unavailable. There
    is nothing to tidy up: a replica keeps nothing, and what hangs would hang the tidying too.
    """
    log.error("this replica ends itself, Serve starts another: %s", reason)
    for handler in [*log.handlers, *logging.getLogger().handlers]:
        handler.flush()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


async def watch(
    part: Watched, leave: Callable[[str], None] = leave, look_s: float = LOOK_S
) -> None:
    """Call ``leave`` with the reason when ``part`` fails; returns then, or once it is closed."""
    while not part.closed:
        if (reason := part.failure()) is not None:
            leave(reason)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(look_s):
                await part.alarm.wait()
        part.alarm.clear()
