"""One rollout runner as the pool sees it: its process, what it has in hand, and how it returns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import ray
from ray.exceptions import ActorDiedError, RayActorError

from actors.parts import Handle, Part, answer
from actors.rollout import start_runner
from alphagrpo.config import RunConfig
from alphagrpo.deadlines import Deadlines, Whom
from alphagrpo.errors import ProcessSilent

T = TypeVar("T")

PICTURES = "pictures"
"""The kind of calls in which no judge is asked."""
RETRY_S = 0.2
"""Between two looks whether Ray has restarted a process."""


class Runner:
    """Has a process, and another where that one is lost."""

    def __init__(self, config: RunConfig, index: int, verifier: Part, deadlines: Deadlines) -> None:
        self._config, self._verifier, self._deadlines = config, verifier, deadlines
        self.index = index
        self.jobs = 0
        self.samples = 0
        """That its jobs ask for: slices of a group differ by one."""
        self.lives = 0
        """Processes so far: what is heard of an earlier one means this one no more."""
        self.start()

    def start(self) -> None:
        """Have a process, which is taken for up until a call says otherwise."""
        self.handle: Handle = start_runner(self._config, self.index, self._verifier)
        self.up = True
        self.lives += 1

    async def answer(self, kind: str, call: Callable[[Handle], Awaitable[T]]) -> T:
        """The answer of its process.

        Raises:
            RayActorError: the process is gone.
            ProcessSilent: it does not answer, and was ended.
        """
        handle = self.handle
        # A refinement's drafts are judged before it is, and a judge may be starting.
        judged_s = 0.0 if kind == PICTURES else 2 * self._config.services.deadline_s
        whom = Whom(
            name=f"rollout runner {self.index}",
            kind=kind,
            lives=lambda: answer(handle.status.remote()),
            allowance_s=judged_s,
        )
        try:
            return await self._deadlines.kept(call(handle), whom)
        except ProcessSilent:
            # Its other jobs learn of it as of a death.
            ray.kill(handle, no_restart=True)
            raise

    async def back(self) -> None:
        """Return once Ray has restarted the process, or another one that was started, has loaded
        its model.
        """
        try:
            await self._answering()
        except ActorDiedError:
            self.end()
            self.handle = start_runner(self._config, self.index, self._verifier)
            await answer(self.handle.status.remote())
        self.up = True
        self.lives += 1

    async def _answering(self) -> None:
        while True:
            try:
                await answer(self.handle.status.remote())
                return
            except ActorDiedError:
                raise
            except RayActorError:
                await asyncio.sleep(RETRY_S)

    def end(self) -> None:
        """End its process."""
        with suppress(Exception):
            ray.kill(self.handle, no_restart=True)
