"""Waiting for actors that may have to wait for a node: with a deadline, and not in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from actors.cluster import free_nodes, is_alive, unplaced
from actors.parts import Handle
from alphagrpo.capacity import counted, run_roles, waiting_for
from alphagrpo.config import RunConfig
from alphagrpo.deadlines import FIRST_WORD_S, awaited
from alphagrpo.errors import EnvironmentProblem

log = logging.getLogger(__name__)
T = TypeVar("T")

Actors = Mapping[str, Sequence[Handle]]
"""Name of a role (:mod:`alphagrpo.capacity`) to its actors."""


class StartWatch:
    """Awaits the first answers of a run's actors, telling what they lack."""

    def __init__(self, config: RunConfig, tell: Callable[[str], None] | None = None) -> None:
        """``tell`` is given a line whenever there is something to say; default the log."""
        self._config = config
        self._tell = tell or log.warning

    async def wait(self, answers: Awaitable[T], actors: Callable[[], Actors]) -> T:
        """Await ``answers``, which ``actors`` give once they have a node and their model.

        Raises:
            EnvironmentProblem: after ``placement.deadline_s``, with what is missing.
        """
        limit_s = self._config.placement.deadline_s
        clock = asyncio.get_running_loop().time
        end, pause_s = clock() + limit_s, FIRST_WORD_S
        task = asyncio.create_task(awaited(answers))
        try:
            while True:
                await asyncio.wait({task}, timeout=min(pause_s, end - clock()))
                if task.done():
                    return task.result()
                story = await asyncio.to_thread(what_is_missing, self._config, actors())
                if clock() >= end:
                    raise EnvironmentProblem(
                        f"all processes of a run must answer within placement.deadline_s, after "
                        f"{limit_s:g} s it still waits for {story}; make room or add nodes, ask "
                        "for less, or raise placement.deadline_s"
                    )
                self._tell(f"waiting for {story}")
                pause_s *= 2
        finally:
            task.cancel()
            await asyncio.wait({task})


def what_is_missing(config: RunConfig, actors: Actors) -> str:
    """Which of the actors have no node and what would be one, and who else has yet to answer."""
    free, homeless, starting = free_nodes(), [], []
    for role in run_roles(config):
        number = sum(not is_alive(handle) for handle in actors.get(role.name, ()))
        if without := min(number, unplaced(role)):
            homeless.append(waiting_for(role, without, free))
        if number > without:
            starting.append(counted(role, number - without))
    if starting:
        homeless.append(f"{', '.join(starting)} to start and to load the model")
    return "; ".join(homeless) or "the first answers of processes that run"
