"""What is asked in one turn of the event loop goes together, and comes back apart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from services.bundles import Bundles

WHO: ContextVar[str] = ContextVar("who", default="")


class FakeService:
    """Answers a word with its length; ``odd`` words have none. Waits for the gate."""

    def __init__(self, *odd: str) -> None:
        self.odd, self.gate = set(odd), asyncio.Event()
        self.bundles: list[list[str]] = []
        self.seen: list[str] = []
        self.cancelled = 0
        self.error: Exception | None = None

    async def send(self, words: list[str]) -> Sequence[int | Exception]:
        self.bundles.append(words)
        self.seen.append(WHO.get())
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return [ValueError(word) if word in self.odd else len(word) for word in words]


def bundles(service: FakeService, most: int = 3, most_bytes: int = 100) -> Bundles[str, int]:
    return Bundles(service.send, len, most=most, most_bytes=most_bytes)


async def asked(sends: Bundles[str, int], *words: str, **options: Any) -> list[Any]:
    """Tasks that have begun to wait."""
    tasks = [asyncio.create_task(sends.ask(word, **options)) for word in words]
    await asyncio.sleep(0.001)
    return tasks


async def test_one_turn_goes_in_bundles_and_each_gets_its_own_answer() -> None:
    service = FakeService("bbb")
    tasks = await asked(bundles(service), "a", "bbb", "cc", "dddd")
    later = await asked(sends := bundles(service), "e")
    later += await asked(sends, "f")
    assert service.bundles == [["a", "bbb", "cc"], ["dddd"], ["e"], ["f"]]
    service.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answers[0], *answers[2:]] == [1, 2, 4]
    assert isinstance(answers[1], ValueError)
    assert await asyncio.gather(*later) == [1, 1]


async def test_a_bundle_has_so_many_bytes_unless_one_item_has_more() -> None:
    service = FakeService()
    tasks = await asked(bundles(service, most_bytes=4), "aa", "bb", "c", "ddddddd", "e")
    assert service.bundles == [["aa", "bb"], ["c"], ["ddddddd"], ["e"]]
    service.gate.set()
    assert await asyncio.gather(*tasks) == [2, 2, 1, 7, 1]


async def test_groups_go_apart_in_the_context_of_their_askers() -> None:
    service, sends = FakeService(), None
    sends = bundles(service)

    async def ask(word: str, who: str) -> int:
        WHO.set(who)
        return await sends.ask(word, who)

    tasks = [asyncio.create_task(ask(*each)) for each in (("a", "x"), ("b", "y"), ("c", "x"))]
    await asyncio.sleep(0.001)
    assert (service.bundles, service.seen) == ([["a", "c"], ["b"]], ["x", "y"])
    service.gate.set()
    assert await asyncio.gather(*tasks) == [1, 1, 1]


async def test_a_failure_of_the_bundle_is_everybodys() -> None:
    service = FakeService()
    service.error = ConnectionError("gone")
    service.gate.set()
    for task in await asked(bundles(service), "a", "b"):
        with pytest.raises(ConnectionError, match="gone"):
            await task


async def test_who_leaves_leaves_the_bundle_to_the_others_and_the_last_ends_it() -> None:
    service = FakeService()
    sends = bundles(service)
    first, second = await asked(sends, "a", "bb")
    first.cancel()
    await asyncio.sleep(0.001)
    service.gate.set()
    assert await second == 2
    assert service.cancelled == 0
    service.gate.clear()
    for task in (both := await asked(sends, "c", "d")):
        task.cancel()
    await asyncio.wait(both)
    await asyncio.sleep(0.001)
    assert service.cancelled == 1


async def test_who_leaves_before_it_is_sent_is_not_sent() -> None:
    service = FakeService()
    sends = bundles(service)
    task = asyncio.create_task(sends.ask("a"))
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.wait({task})
    await asyncio.sleep(0.001)
    assert service.bundles == []


def test_one_event_loop_after_another() -> None:
    service = FakeService()
    sends = bundles(service)

    async def ask() -> int:
        service.gate = asyncio.Event()
        service.gate.set()
        return await sends.ask("abc")

    assert [asyncio.run(ask()) for _ in range(2)] == [3, 3]
