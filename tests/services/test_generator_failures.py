"""A generator whose device or drawing thread is gone, and a client that waits for another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from alphagrpo.errors import ConfigError, Overloaded, ServiceUnavailable
from services.generator import client as client_module
from services.generator.client import GeneratorClient
from services.generator.policy_queue import PolicyQueue
from services.retry import CallPolicy

DRAWING, DONE = {"event": "stage"}, {"event": "done"}
QUICK = CallPolicy(first_delay_s=0.001, max_delay_s=0.002, deadline_s=5.0)


class Stream:
    """A replica's events, or the error it ends with."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.cancelled = list(items), False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        if not self.items:
            raise StopAsyncIteration
        item = self.items.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self) -> None:
        self.cancelled = True


class Replicas:
    """A transport whose streams are those given, one after the other."""

    def __init__(self, *streams: list[Any]) -> None:
        self.streams = [Stream(items) for items in streams]
        self.sent: list[Stream] = []

    def handle(self) -> Any:
        def remote(request: Any) -> Stream:
            self.sent.append(self.streams.pop(0))
            return self.sent[-1]

        handle = SimpleNamespace(generate=SimpleNamespace(remote=remote))
        return SimpleNamespace(options=lambda **_: handle)

    def caller(self) -> dict[str, str]:
        return {}


async def ask(
    monkeypatch: pytest.MonkeyPatch, replicas: Replicas, policy: CallPolicy = QUICK
) -> list[Any]:
    monkeypatch.setattr(client_module, "HandleTransport", lambda app: replicas)
    return [event async for event in GeneratorClient("generator", policy).events({})]


async def test_a_request_that_nobody_has_begun_waits_for_a_replica(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = [[ActorDiedError()], [ServiceUnavailable("device")]] * 20
    replicas = Replicas(*gone, [DRAWING, DONE])
    assert await ask(monkeypatch, replicas) == [DRAWING, DONE]
    assert all(stream.cancelled for stream in replicas.sent)


async def test_its_wait_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = Replicas(*[[ActorDiedError()]] * 999)
    policy = CallPolicy(first_delay_s=0.01, deadline_s=0.1)
    with pytest.raises(ServiceUnavailable, match=r"generator must answer within 0\.1 s"):
        await ask(monkeypatch, replicas, policy)


async def test_a_stream_that_has_begun_is_not_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = Replicas([DRAWING, ActorDiedError()], [DRAWING, DONE])
    with pytest.raises(ServiceUnavailable, match="ask again with the same seed"):
        await ask(monkeypatch, replicas)
    assert len(replicas.sent) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Overloaded("full"), Overloaded),
        (BackPressureError(3, 3), Overloaded),
        (ConfigError("wrong"), ConfigError),
    ],
)
async def test_full_queues_and_wrong_requests_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    replicas = Replicas([error], [DRAWING, DONE])
    with pytest.raises(kind):
        await ask(monkeypatch, replicas)
    assert len(replicas.sent) == 1


@pytest.fixture
def queue() -> Iterator[PolicyQueue]:
    worker: Any = SimpleNamespace(config=SimpleNamespace(model=SimpleNamespace(path="m/policy")))
    made = PolicyQueue(worker, None, silence_s=0.05)
    yield made
    made.close()


async def test_a_device_that_failed_is_the_end_and_full_memory_is_not(queue: PolicyQueue) -> None:
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(torch.OutOfMemoryError):
        await queue.between_batches(lambda: fail(torch.OutOfMemoryError("full")))
    assert (queue.failure(), queue.alarm.is_set()) == (None, False)
    with pytest.raises(ServiceUnavailable, match="device of policy must work"):
        await queue.between_batches(lambda: fail(torch.AcceleratorError("illegal access")))
    assert queue.alarm.is_set()
    assert "illegal access" in str(queue.failure())


async def test_a_drawing_that_never_ends_is_found(queue: PolicyQueue) -> None:
    release = threading.Event()
    await queue.between_batches(lambda: None)
    await asyncio.sleep(0.1)
    assert queue.failure() is None, "an idle one owes nothing"
    hung = asyncio.create_task(queue.between_batches(lambda: release.wait(10)))
    try:
        await asyncio.sleep(0.01)
        assert queue.failure() is None
        await asyncio.sleep(0.1)
        assert "drawing thread of policy" in str(queue.failure())
        queue.closed = True
        assert queue.failure() is None, "shut down on purpose"
    finally:
        release.set()
        await hung
