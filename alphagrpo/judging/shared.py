"""Calls under way, shared: who asks what is being asked already waits for the same answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Ask = Callable[[list[K]], Awaitable[Mapping[K, V]]]
"""One call for all of some keys: an answer for each, or an error."""


@dataclass(slots=True, eq=False)
class _Call(Generic[K, V]):
    keys: list[K]
    task: asyncio.Task[Mapping[K, V]]
    waiting: int = 0
    """How many callers want one of its answers."""

    @property
    def failed(self) -> bool:
        return self.task.cancelled() or self.task.exception() is not None


class SharedCalls(Generic[K, V]):
    """Answers by key, each asked for by one call at a time. For one event loop.

    A call runs as a task of its own: a caller that is cancelled leaves it to those who share it,
    and the last to leave cancels it. Where a call fails, who made it gets its error; who shared it
    asks again, since what failed may have been another key of that call.
    """

    def __init__(self) -> None:
        self._calls: dict[K, _Call[K, V]] = {}

    async def get(self, keys: Sequence[K], ask: Ask[K, V]) -> dict[K, V]:
        """The answer of each of ``keys``; those that no call asks for yet go out in one ``ask``.

        Raises what ``ask`` raises.
        """
        answers: dict[K, V] = {}
        while missing := [key for key in keys if key not in answers]:
            under_way = dict.fromkeys(self._calls[key] for key in missing if key in self._calls)
            untold = [key for key in missing if key not in self._calls]
            own = self._start(untold, ask) if untold else None
            # One's own first: its failure is final.
            answers |= await self._answers([own, *under_way] if own else [*under_way], own)
        return {key: answers[key] for key in keys}

    async def _answers(self, calls: Sequence[_Call[K, V]], own: _Call[K, V] | None) -> dict[K, V]:
        """What ``calls`` answer; nothing of one that fails, unless it is one's own."""
        answers: dict[K, V] = {}
        for call in calls:
            call.waiting += 1
        try:
            for call in calls:
                await asyncio.wait({call.task})
                if call is own or not call.failed:
                    answers |= call.task.result()
        finally:
            for call in calls:
                self._leave(call)
        return answers

    def _start(self, keys: list[K], ask: Ask[K, V]) -> _Call[K, V]:
        async def run() -> Mapping[K, V]:
            return await ask(keys)

        call: _Call[K, V] = _Call(keys, asyncio.create_task(run()))
        self._calls |= dict.fromkeys(keys, call)
        call.task.add_done_callback(lambda _: self._ended(call))
        return call

    def _ended(self, call: _Call[K, V]) -> None:
        self._forget(call)
        # Looked at even where nobody waits any more: asyncio complains of errors nobody saw.
        _ = call.failed

    def _leave(self, call: _Call[K, V]) -> None:
        call.waiting -= 1
        if call.waiting == 0 and not call.task.done():
            self._forget(call)  # now: who asks next must not wait for what is being cancelled
            call.task.cancel()

    def _forget(self, call: _Call[K, V]) -> None:
        for key in call.keys:
            if self._calls.get(key) is call:
                del self._calls[key]
