"""The groups of one step, drawn in the background: from dispatch in prompt order to arrival."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from alphagrpo.ports import GroupReport
from alphagrpo.turns import Cursor, SkippedTurn, Visit

Turns = Callable[[Cursor, Callable[[SkippedTurn], object]], AsyncIterator[Visit]]
"""A step's turns from a cursor on; what it is given besides is told of turns without a group."""
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
        turns: Turns,
        start: Cursor | StepDrawing,
        count: int,
        draw: Callable[[], Draw],
        room: asyncio.Semaphore,
    ) -> None:
        """Start drawing.

        Args:
            turns: the step's turns from a place in the prompt order on.
            start: this place, or the drawing of the step before, which will know it.
            count: how many turns there are.
            draw: asked once, when the first group is about to be dispatched.
            room: for so many groups at a time.
        """
        self._turns, self._start, self._count = turns, start, count
        self._draw, self._room = draw, room
        self.turns: list[Visit] = []
        """That were dispatched, by place."""
        self.skipped: list[SkippedTurn] = []
        """Turns between them that gave no group."""
        self.arrived: list[Arrival] = []
        """In the order they came."""
        self._arrivals: asyncio.Queue[Arrival | BaseException] = asyncio.Queue()
        self._dispatched: asyncio.Future[Cursor] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())

    async def end(self) -> Cursor:
        """Where the prompt order goes on after this step; known once all of it is dispatched."""
        return await asyncio.shield(self._dispatched)

    async def arrivals(self) -> AsyncIterator[Arrival]:
        """The groups as they come. Raises what dispatching or drawing raised."""
        for _ in range(self._count):
            arrival = await self._arrivals.get()
            if isinstance(arrival, BaseException):
                raise arrival
            yield arrival

    def in_order(self) -> list[Arrival]:
        """What has arrived so far, in prompt order."""
        return sorted(self.arrived, key=lambda arrival: arrival.place)

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
        except BaseException as error:
            # Whatever it was: who takes the groups must not wait for those that will not come.
            self._arrivals.put_nowait(error)
            self._dispatched.cancel()
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            for task in tasks:
                task.cancel()

    async def _dispatch(self, tasks: list[asyncio.Task[None]]) -> None:
        start = self._start
        cursor = start if isinstance(start, Cursor) else await start.end()
        draw: Draw | None = None
        async for turn in self._turns(cursor, self.skipped.append):
            await self._room.acquire()
            raise_first_failure(tasks)
            draw = draw or self._draw()
            place = len(tasks)
            self.turns.append(turn)
            task = asyncio.create_task(self._one(place, draw(place, turn)))
            task.add_done_callback(lambda _: self._room.release())
            tasks.append(task)
            cursor = turn.after
        self._dispatched.set_result(cursor)

    async def _one(self, place: int, drawn: Awaitable[GroupReport]) -> None:
        report = await drawn
        self.arrived.append(Arrival(place, report, perf_counter()))
        self._arrivals.put_nowait(self.arrived[-1])


def raise_first_failure(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Raise what one of the tasks that are done has raised, if any has."""
    for task in tasks:
        if task.done():
            task.result()
