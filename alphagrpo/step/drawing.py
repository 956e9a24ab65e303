"""The groups of one step, drawn in the background: from dispatch in prompt order to arrival."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from alphagrpo.ports import GroupReport
from alphagrpo.prompt_iterator import Visit

Draw = Callable[[int, Visit], Awaitable[GroupReport]]
"""Draws the group at a place in its step; called in prompt order."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A group that is drawn and scored."""

    place: int
    """In its step, in prompt order."""
    report: GroupReport
    time: float
    """``perf_counter`` when it came."""


class StepDrawing:
    """Dispatches a step's turns as soon as there is room, and hands out groups as they arrive.

    It works from the moment it is made, whether anybody takes its groups or not. Several share one
    ``room``, which an earlier step takes first: it has dispatched all of its groups before the next
    begins.
    """

    def __init__(
        self,
        turns: Callable[[int], AsyncIterator[Visit]],
        start: int | StepDrawing,
        count: int,
        draw: Callable[[], Draw],
        room: asyncio.Semaphore,
    ) -> None:
        """Start drawing.

        Args:
            turns: the step's turns from a position of the prompt order on.
            start: this position, or the drawing of the step before, which will know it.
            count: how many turns there are.
            draw: asked once, when the first group is about to be dispatched.
            room: for so many groups at a time.
        """
        self._turns, self._start, self._count = turns, start, count
        self._draw, self._room = draw, room
        self._arrivals: asyncio.Queue[Arrival | BaseException] = asyncio.Queue()
        self._dispatched: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())

    async def next_position(self) -> int:
        """Where the prompt order goes on after this step; known once all of it is dispatched."""
        return await asyncio.shield(self._dispatched)

    async def arrivals(self) -> AsyncIterator[Arrival]:
        """The groups as they come. Raises what dispatching or drawing raised."""
        for _ in range(self._count):
            arrival = await self._arrivals.get()
            if isinstance(arrival, BaseException):
                raise arrival
            yield arrival

    async def close(self) -> None:
        """Abandon what is under way."""
        self._task.cancel()
        self._dispatched.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._dispatch(tasks)
            await asyncio.gather(*tasks)
        except Exception as error:
            self._arrivals.put_nowait(error)
            self._dispatched.cancel()
        finally:
            for task in tasks:
                task.cancel()

    async def _dispatch(self, tasks: list[asyncio.Task[None]]) -> None:
        start = self._start
        position = start if isinstance(start, int) else await start.next_position()
        draw: Draw | None = None
        async for turn in self._turns(position):
            await self._room.acquire()
            raise_first_failure(tasks)
            draw = draw or self._draw()
            place = len(tasks)
            task = asyncio.create_task(self._one(place, draw(place, turn)))
            task.add_done_callback(lambda _: self._room.release())
            tasks.append(task)
            position = turn.next_position
        self._dispatched.set_result(position)

    async def _one(self, place: int, drawn: Awaitable[GroupReport]) -> None:
        report = await drawn
        self._arrivals.put_nowait(Arrival(place, report, perf_counter()))


def raise_first_failure(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Raise what one of the tasks that are done has raised, if any has."""
    for task in tasks:
        if task.done():
            task.result()
