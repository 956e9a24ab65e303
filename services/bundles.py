"""What is asked in one turn of the event loop goes out together: a call costs more than a picture.

The pictures of a group are asked about at once. As one call each they cost a Serve handle, or a
gateway, more than the engine's arithmetic; a few together cost little more than one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from alphagrpo.errors import MeshError

A = TypeVar("A")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Asked(Generic[A, R]):
    item: A
    answer: asyncio.Future[R]
    group: Hashable
    context: Context


class Bundles(Generic[A, R]):
    """Sends items in bundles of at most ``most`` and of at most ``most_bytes``, or alone.

    ``send`` gives one answer or one error per item, or fails for all of them. An asker that is
    cancelled leaves its bundle to the others; the last one to leave cancels it. Safe to use from
    one event loop after another.
    """

    def __init__(
        self,
        send: Callable[[list[A]], Awaitable[Sequence[R | Exception]]],
        size: Callable[[A], int],
        *,
        most: int,
        most_bytes: int,
    ) -> None:
        self._send, self._size = send, size
        self._most, self._most_bytes = most, most_bytes
        self._turn: tuple[asyncio.AbstractEventLoop, list[_Asked[A, R]]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, item: A, group: Hashable = None) -> R:
        """The answer for ``item``; only items of one ``group`` go together.

        ``send`` runs in the context of the first of its bundle, as contextvars go.
        """
        loop = asyncio.get_running_loop()
        if self._turn is None or self._turn[0] is not loop:
            self._turn = (loop, [])
            loop.call_soon(self._send_turn, self._turn[1])
        asked = _Asked(item, loop.create_future(), group, copy_context())
        self._turn[1].append(asked)
        return await asked.answer

    def _send_turn(self, turn: list[_Asked[A, R]]) -> None:
        if self._turn is not None and self._turn[1] is turn:
            self._turn = None
        for bundle in self._bundles([asked for asked in turn if not asked.answer.done()]):
            loop, first = asyncio.get_running_loop(), bundle[0]
            task = loop.create_task(self._run(bundle), context=first.context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            for asked in bundle:
                asked.answer.add_done_callback(partial(_cancel_unwanted, bundle, task))

    def _bundles(self, turn: list[_Asked[A, R]]) -> Iterator[list[_Asked[A, R]]]:
        for group in dict.fromkeys(asked.group for asked in turn):
            bundle: list[_Asked[A, R]] = []
            size = 0
            for asked in turn:
                if asked.group != group:
                    continue
                own = self._size(asked.item)
                if bundle and (len(bundle) == self._most or size + own > self._most_bytes):
                    yield bundle
                    bundle, size = [], 0
                bundle.append(asked)
                size += own
            yield bundle

    async def _run(self, bundle: list[_Asked[A, R]]) -> None:
        try:
            answers = await self._send([asked.item for asked in bundle])
            pairs = list(zip(bundle, answers, strict=True))
        except asyncio.CancelledError:
            for asked in bundle:
                asked.answer.cancel()
            raise
        except Exception as error:
            pairs = [(asked, error) for asked in bundle]
        for asked, answer in pairs:
            if asked.answer.done():
                continue
            if isinstance(answer, Exception):
                asked.answer.set_exception(answer)
            else:
                asked.answer.set_result(answer)


def _cancel_unwanted(
    bundle: Sequence[_Asked[A, R]], task: asyncio.Task[None], _: asyncio.Future[R]
) -> None:
    """Nobody waits for a bundle any more: it need not be answered."""
    if not task.done() and all(asked.answer.cancelled() for asked in bundle):
        task.cancel()


def only_mesh_errors(answers: Sequence[R | BaseException]) -> list[R | MeshError]:
    """Gathered answers of a bundle; raises the first error that is none of the mesh's."""
    kept: list[R | MeshError] = []
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, MeshError):
            raise answer
        kept.append(answer)
    return kept
