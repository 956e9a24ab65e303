"""Calls under way, shared: one call for all who ask, whoever of them leaves or fails."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from alphagrpo.judging.shared import SharedCalls


class FakeService:
    """Answers a key with its upper case once the gate is open; ``bad`` keys fail their call."""

    def __init__(self, *bad: str) -> None:
        self.bad = set(bad)
        self.gate = asyncio.Event()
        self.calls: list[list[str]] = []
        self.cancelled = 0
        self.tidied = asyncio.Event()
        self.tidied.set()

    async def ask(self, keys: list[str]) -> dict[str, str]:
        self.calls.append(keys)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            await self.tidied.wait()
            raise
        if found := self.bad & set(keys):
            raise ValueError(f"bad: {found}")
        return {key: key.upper() for key in keys}


async def started(shared: SharedCalls[str, str], service: FakeService, *keys: str) -> Any:
    """A caller that has begun to wait."""
    task = asyncio.create_task(shared.get(keys, service.ask))
    await asyncio.sleep(0.001)
    return task


async def test_what_is_asked_already_is_not_asked_again() -> None:
    shared, service = SharedCalls[str, str](), FakeService()
    one = await started(shared, service, "a", "b")
    other = await started(shared, service, "c", "b", "a")
    same = await started(shared, service, "b")
    service.gate.set()
    assert await one == {"a": "A", "b": "B"}
    assert list((await other).items()) == [("c", "C"), ("b", "B"), ("a", "A")]
    assert await same == {"b": "B"}
    assert service.calls == [["a", "b"], ["c"]]
    assert await shared.get(["a"], service.ask) == {"a": "A"}
    assert service.calls[2:] == [["a"]], "what is answered is not kept"


async def test_the_first_to_ask_may_leave() -> None:
    shared, service = SharedCalls[str, str](), FakeService()
    first = await started(shared, service, "a", "b")
    other = await started(shared, service, "b")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    service.gate.set()
    assert await other == {"b": "B"}
    assert (service.calls, service.cancelled) == ([["a", "b"]], 0)


async def test_the_last_to_leave_ends_the_call_and_the_next_begins_anew() -> None:
    shared, service = SharedCalls[str, str](), FakeService()
    service.tidied.clear()  # a call that is cancelled takes its time
    waiting = [await started(shared, service, "a") for _ in range(3)]
    for task in waiting:
        task.cancel()
    service.gate.set()
    await asyncio.wait(waiting)
    assert await asyncio.wait_for(shared.get(["a"], service.ask), timeout=5) == {"a": "A"}
    assert (service.calls, service.cancelled) == ([["a"], ["a"]], 1)
    service.tidied.set()


async def test_a_failure_is_its_own_callers_and_who_shared_it_asks_again() -> None:
    shared, service = SharedCalls[str, str](), FakeService("b")
    first = await started(shared, service, "a", "b")
    other = await started(shared, service, "a", "c")
    third = await started(shared, service, "a", "c")
    service.gate.set()
    with pytest.raises(ValueError, match="bad"):
        await first
    assert await other == await third == {"a": "A", "c": "C"}
    assert service.calls == [["a", "b"], ["c"], ["a"]]


async def test_ones_own_failure_does_not_wait_for_the_calls_of_others() -> None:
    shared, slow, quick = SharedCalls[str, str](), FakeService(), FakeService("b")
    first = await started(shared, slow, "a")
    quick.gate.set()
    with pytest.raises(ValueError, match="bad"):
        await asyncio.wait_for(shared.get(["a", "b"], quick.ask), timeout=5)
    slow.gate.set()
    assert await first == {"a": "A"}
    assert slow.cancelled == 0


async def test_a_call_that_cancels_itself_is_a_failure_for_those_who_share_it() -> None:
    shared, service = SharedCalls[str, str](), FakeService()

    async def give_up(keys: list[str]) -> dict[str, str]:
        await asyncio.sleep(0.002)
        raise asyncio.CancelledError

    first = asyncio.create_task(shared.get(["a"], give_up))
    await asyncio.sleep(0)
    service.gate.set()
    assert await shared.get(["a"], service.ask) == {"a": "A"}
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_an_error_that_nobody_waits_for_is_not_reported_as_lost() -> None:
    shared, service = SharedCalls[str, str](), FakeService("a")
    lost: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    first = await started(shared, service, "a")
    service.gate.set()
    first.cancel()  # in the same turn of the loop in which the call goes on
    await asyncio.wait({first})
    await asyncio.sleep(0.001)
    del first
    gc.collect()
    assert lost == []
