"""The guard alone, as ASGI: what passes, what it counts, what it does with a body."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from services.caller import CALLER, HEADER
from services.gateway.callers import Caller, Callers
from services.gateway.guard import Guard


class Behind:
    """The application behind the guard: reads its body, then answers or waits."""

    def __init__(self, gate: asyncio.Event | None = None, fail: bool = False) -> None:
        self.gate, self.fail = gate, fail
        self.bodies: list[bytes] = []
        self.after: list[str] = []
        self.callers: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        self.callers.append(CALLER.get())
        self.bodies.append(message.get("body", b""))
        if self.gate:
            await self.gate.wait()
        if self.fail:
            raise ValueError("odd")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
        if message["type"] == "http.request":
            self.after.append((await receive())["type"])


def guard(app: Any, token: str | None = None, max_requests: int = 1, recorder: Any = None) -> Guard:
    only = Caller(name="only", token=token.encode() if token else None, max_requests=max_requests)
    return Guard(app, callers=Callers([only]), max_body_bytes=10, recorder=recorder)


class Recorded:
    """What a guard has counted."""

    def __init__(self) -> None:
        self.under_way: list[tuple[str, int]] = []
        self.ended: list[tuple[str, int | None]] = []

    def pending(self, caller: str, number: int) -> None:
        self.under_way.append((caller, number))

    def finished(self, caller: str, status: int | None) -> None:
        self.ended.append((caller, status))


async def request(
    app: Guard, *chunks: bytes, path: str = "/v1/verify", headers: dict[str, str] | None = None
) -> tuple[int | None, str]:
    """Status and error code of one request whose body comes in ``chunks``."""
    messages = [
        {"type": "http.request", "body": chunk, "more_body": i < len(chunks) - 1}
        for i, chunk in enumerate(chunks)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
    await app({"type": "http", "path": path, "headers": raw}, receive, send)
    if not sent:
        return None, ""
    body = sent[1]["body"]
    return sent[0]["status"], "" if body == b"ok" else json.loads(body)["error"]["code"]


async def test_a_body_in_pieces_arrives_whole_and_the_disconnect_after_it() -> None:
    app = Behind()
    assert await request(guard(app), b"abc", b"def", b"g") == (200, "")
    assert app.bodies == [b"abcdefg"]
    assert app.after == ["http.disconnect"]


async def test_the_limit_is_on_the_sum_and_is_itself_allowed() -> None:
    app = Behind()
    assert await request(guard(app), b"x" * 10) == (200, "")
    assert await request(guard(app), b"x" * 6, b"x" * 5) == (413, "too_large")
    assert await request(guard(app), b"", headers={"content-length": "11"}) == (413, "too_large")
    assert len(app.bodies) == 1


async def test_a_caller_that_leaves_while_sending_reaches_nobody() -> None:
    app = Behind()
    assert await request(guard(app)) == (None, "")
    assert app.bodies == []


@pytest.mark.parametrize("fail", [False, True])
async def test_a_place_is_given_back_whatever_happens(fail: bool) -> None:
    gate = asyncio.Event()
    app = Behind(gate, fail=fail)
    watch = guard(app, max_requests=2)
    busy = [asyncio.create_task(request(watch, b"x")) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert await request(watch, b"x") == (429, "too_many_requests")
    gate.set()
    await asyncio.gather(*busy, return_exceptions=True)
    app.fail = False
    assert await request(watch, b"x") == (200, "")


async def test_who_asks_is_known_behind_the_guard_and_forgotten_after() -> None:
    app = Behind()
    watch = guard(app)
    await request(watch, b"x", headers={HEADER.lower(): "bagel-7b"})
    assert CALLER.get() == ""
    await request(watch, b"x")
    assert app.callers == ["bagel-7b", ""]


async def test_refused_requests_take_no_place() -> None:
    watch = guard(Behind(), token="right", max_requests=1)
    for _ in range(3):
        assert await request(watch, b"x") == (401, "unauthorized")
    good = {"authorization": "Bearer right"}
    assert await request(watch, b"x", headers={**good, "content-length": "99"}) == (
        413,
        "too_large",
    )
    assert await request(watch, b"x", headers=good) == (200, "")


async def test_probes_pass_a_full_gateway_and_need_no_token() -> None:
    gate = asyncio.Event()
    watch = guard(Behind(gate), token="right")
    good = {"authorization": "Bearer right"}
    busy = asyncio.create_task(request(watch, b"x", headers=good))
    await asyncio.sleep(0.01)
    probe = asyncio.create_task(request(watch, b"", path="/healthz"))
    await asyncio.sleep(0.01)
    assert await request(watch, b"", headers=good) == (429, "too_many_requests")
    gate.set()
    assert await probe == (200, "")
    assert await busy == (200, "")


def two(now: list[float]) -> Callers:
    """One caller with two places and six requests a minute, and one with a single place."""
    clock = lambda: now[0]  # noqa: E731
    return Callers(
        [
            Caller(name="a", token=b"ta", max_requests=2, per_minute=6, clock=clock),
            Caller(name="b", token=b"tb", max_requests=1),
        ]
    )


async def test_one_caller_that_sends_all_it_can_takes_no_place_of_another() -> None:
    gate = asyncio.Event()
    app, recorder = Behind(gate), Recorded()
    watch = Guard(app, callers=two([0.0]), max_body_bytes=10, recorder=recorder)
    greedy = {"authorization": "Bearer tb"}
    busy = [asyncio.create_task(request(watch, b"x", headers=greedy)) for _ in range(5)]
    await asyncio.sleep(0.01)
    other = asyncio.create_task(request(watch, b"x", headers={"authorization": "Bearer ta"}))
    await asyncio.sleep(0.01)
    gate.set()
    assert await other == (200, "")
    assert sorted([await one for one in busy]) == [(200, ""), *[(429, "too_many_requests")] * 4]
    assert recorder.under_way == [("b", 1), ("a", 1), ("b", 0), ("a", 0)]
    assert recorder.ended == [*[("b", 429)] * 4, ("b", 200), ("a", 200)]
    assert app.callers == ["b", "a"], "a caller's name stands for a run that is not named"


async def test_a_rate_is_kept_and_told_when_to_come_again() -> None:
    now, sent = [0.0], []
    watch = Guard(Behind(), callers=two(now), max_body_bytes=10)
    headers = {"authorization": "Bearer ta"}
    assert await request(watch, b"x", headers=headers) == (200, "")
    assert await request(watch, b"x", headers=headers) == (429, "too_many_requests")

    async def send(message: Any) -> None:
        sent.append(message)

    now[0] = 4.0
    raw = [(b"authorization", b"Bearer ta")]
    await watch({"type": "http", "path": "/", "headers": raw}, Behind(), send)
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"retry-after"]) == (429, b"6")
    assert b"send it again in 6.0 s" in sent[1]["body"]
    now[0] = 10.0
    assert await request(watch, b"x", headers=headers) == (200, "")
    assert await request(watch, b"x", headers={"authorization": "Bearer tb"}) == (200, "")


async def test_strangers_and_quitters_are_counted_as_such() -> None:
    recorder = Recorded()
    watch = guard(Behind(), token="right", recorder=recorder)
    await request(watch, b"x")
    await request(watch, headers={"authorization": "Bearer right"})
    assert recorder.ended == [("none", 401), ("only", None)]
