"""Waiting for the processes of a run: with deadlines learnt from the run, and not in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from alphagrpo.config.deadlines import DeadlineConfig
from alphagrpo.errors import ProcessSilent

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_WORD_S = 10.0
"""Seconds past what is usual until it is first said who is waited for; then they double."""


@dataclass(frozen=True, slots=True)
class Whom:
    """The process that is waited for, and what for."""

    name: str
    """Of the process, in messages: ``rollout runner 1``."""
    kind: str
    """Of the call: calls of one kind take about the same time."""
    lives: Callable[[], Awaitable[object]]
    """Asks the process whether it lives, on a lane where it answers while it computes."""
    allowance_s: float = 0.0
    """Added to what was learnt: seconds that the process may spend in waiting for others."""


class Deadlines:
    """What the calls of a run took so far, and so how long the next ones may take.

    Belongs to one event loop, as whoever waits does.
    """

    def __init__(self, config: DeadlineConfig, tell: Callable[[str], None] | None = None) -> None:
        """``tell`` is given a line whenever there is something to say; default the log."""
        self._config, self._tell = config, tell or log.warning
        self._slowest: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def limit_s(self, whom: Whom) -> float:
        """Seconds that a call may take now."""
        slowest = self._slowest.get(whom.kind)
        if slowest is None:
            return self._config.first_s + whom.allowance_s
        return max(self._config.factor * slowest, self._config.least_s) + whom.allowance_s

    async def kept(self, call: Awaitable[T], whom: Whom) -> T:
        """The answer of ``call``, which is abandoned once its process is silent.

        Raises:
            ProcessSilent: at the deadline, and where the process does not say that it lives.
        """
        clock = asyncio.get_running_loop().time
        begun, limit_s = clock(), self.limit_s(whom)
        word_s, pause_s = self._slowest.get(whom.kind, 0.0) + FIRST_WORD_S, FIRST_WORD_S
        task = asyncio.ensure_future(awaited(call))
        try:
            while True:
                spent_s = clock() - begun
                await asyncio.wait({task}, timeout=max(min(word_s, limit_s) - spent_s, 0.0))
                spent_s = clock() - begun
                if task.done():
                    answer = task.result()
                    self._slowest[whom.kind] = max(self._slowest.get(whom.kind, 0.0), spent_s)
                    return answer
                if spent_s >= limit_s:
                    raise ProcessSilent(
                        f"{whom.name} must answer a call ({whom.kind}) within {limit_s:.0f} s, "
                        f"{self._known(whom)}, and did not; raise deadlines.factor or "
                        "deadlines.first_s if it was at work"
                    )
                self._say(f"waiting for {whom.name} ({whom.kind}) since {spent_s:.0f} s", whom)
                await self._ask(task, whom)
                pause_s *= 2
                word_s += pause_s
        finally:
            task.cancel()

    def _say(self, line: str, whom: Whom) -> None:
        """Once for several calls of one process."""
        now = asyncio.get_running_loop().time()
        if now - self._told.get(whom.name, -FIRST_WORD_S) >= FIRST_WORD_S:
            self._told[whom.name] = now
            self._tell(f"{line}; {self._known(whom)}")

    def _known(self, whom: Whom) -> str:
        slowest = self._slowest.get(whom.kind)
        if slowest is None:
            return "the first of its kind"
        return f"the slowest so far took {slowest:.0f} s"

    async def _ask(self, task: asyncio.Task[T], whom: Whom) -> None:
        """Have the process say that it lives, unless the answer comes first."""
        asked = asyncio.ensure_future(awaited(whom.lives()))
        limit_s = self._config.ping_s
        try:
            done, _ = await asyncio.wait(
                {task, asked}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise ProcessSilent(
                    f"{whom.name} must say within deadlines.ping_s ({limit_s:g} s) that it lives, "
                    "and did not: it hangs, or its node does"
                )
        finally:
            asked.cancel()
            # A process that has died says so in the call itself.
            await asyncio.gather(asked, return_exceptions=True)


async def awaited(answer: Awaitable[T]) -> T:
    """``answer`` as a coroutine, which a task can be made of."""
    return await answer
