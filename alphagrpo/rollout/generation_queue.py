"""One policy that draws for many callers: their requests in batches, weights changed in between.

Plain asyncio; the generator service is a shell round it. Drawing happens in a thread of its own, so
that waiting callers, health checks and progress are never stuck behind it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from alphagrpo.errors import Overloaded
from alphagrpo.ports import PictureRequest

log = logging.getLogger(__name__)
T = TypeVar("T")


P_co = TypeVar("P_co", covariant=True)
P = TypeVar("P")


class PictureWorker(Protocol[P_co]):
    """Who draws: a :class:`alphagrpo.policy.worker.RolloutWorker`, or a shell round one."""

    def draw(self, requests: Sequence[PictureRequest]) -> Sequence[P_co]:
        """One picture per request."""
        ...


@dataclass(slots=True)
class _Waiting(Generic[P]):
    request: PictureRequest
    answer: asyncio.Future[P]


class GenerationQueue(Generic[P]):
    """Draws what is asked for, at most ``max_batch`` pictures at a time, in order of arrival.

    A picture is a function of its request and the weights; which others share its batch may change
    the last bit of a pixel. Belongs to one event loop.
    """

    def __init__(
        self, worker: PictureWorker[P], *, max_batch: int = 8, max_queued: int = 64
    ) -> None:
        self._worker = worker
        self._max_batch, self._max_queued = max_batch, max_queued
        self._waiting: deque[_Waiting[P]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draw")
        self._pump: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """Pictures that wait for their turn."""
        return len(self._waiting)

    async def draw(self, requests: Sequence[PictureRequest]) -> tuple[P, ...]:
        """One picture per request, in order.

        Raises:
            Overloaded: where so many would wait that the queue's bound is passed; none is drawn.
        """
        if len(self._waiting) + len(requests) > self._max_queued:
            raise Overloaded(
                f"at most {self._max_queued} pictures may wait to be drawn, {len(self._waiting)} "
                f"do and {len(requests)} more were asked for; wait a moment, or add replicas"
            )
        loop = asyncio.get_running_loop()
        entries: list[_Waiting[P]] = [_Waiting(r, loop.create_future()) for r in requests]
        self._waiting.extend(entries)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._draw_waiting())
        try:
            return tuple(await asyncio.gather(*(one.answer for one in entries)))
        except asyncio.CancelledError:
            for one in entries:
                one.answer.cancel()
            raise

    async def between_batches(self, work: Callable[[], T]) -> T:
        """Run ``work`` (such as a change of weights) in the drawing thread, while none is drawn."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _draw_waiting(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(self._next_batch())]
            batch = [one for one in batch if not one.answer.done()]
            if not batch:
                continue
            requests = [one.request for one in batch]
            try:
                pictures = await self.between_batches(partial(self._worker.draw, requests))
            except Exception as error:
                # The callers are told; the next batch may be fine.
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, picture in zip(batch, pictures, strict=True):
                if not one.answer.done():
                    one.answer.set_result(picture)

    def _next_batch(self) -> int:
        return min(self._max_batch, len(self._waiting))

    def close(self) -> None:
        """Draw no more."""
        if self._pump is not None:
            self._pump.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
