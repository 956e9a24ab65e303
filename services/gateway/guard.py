"""What stands before the gateway's routes: token, size of the body, requests at once, who asks."""

from __future__ import annotations

import json
import math
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.caller import CALLER, HEADER
from services.gateway.callers import Caller, Callers

OPEN_PATHS = ("/healthz",)
"""Probes need no token; the interactive documentation does, like every other path."""
NO_CALLER = "none"
"""In metrics: a request without a token, or with nobody's."""


class Recorder(Protocol):
    """What is counted; see :class:`services.metrics.GatewayMetrics`."""

    def pending(self, caller: str, number: int) -> None:
        """So many requests of a caller are under way."""
        ...

    def finished(self, caller: str, status: int | None) -> None:
        """A request has ended, with an HTTP status or with none."""
        ...


class Guard:
    """ASGI middleware. Answers 401, 413 and 429 itself, before a body is read or parsed."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        callers: Callers,
        max_body_bytes: int,
        recorder: Recorder | None = None,
    ) -> None:
        self.app = app
        self._callers, self._recorder = callers, recorder
        self._max_body = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        headers = {key.lower(): value for key, value in scope["headers"]}
        caller = self._callers.who(headers.get(b"authorization", b""))
        status: int | None = None

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if caller is None:
                await _refuse(
                    noted, 401, "unauthorized",
                    "callers send 'Authorization: Bearer <token>' with a token of the gateway's, "
                    "got none or another; ask its operator for it", {"www-authenticate": "Bearer"},
                )  # fmt: skip
            elif not await self._refused(caller, headers, noted):
                await self._admitted(caller, headers, scope, receive, noted)
        finally:
            if self._recorder:
                self._recorder.finished(caller.name if caller else NO_CALLER, status)

    async def _refused(self, caller: Caller, headers: dict[bytes, bytes], send: Send) -> bool:
        """Whether a caller's request was answered here, for what its headers say or its limits."""
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body:
            await self._too_large(send, int(length))
            return True
        if caller.is_full():
            await _refuse(
                send, 429, "too_many_requests",
                f"the gateway takes {caller.max_requests} requests of this token at once, it has "
                "as many; wait a second and send it again", {"retry-after": "1"},
            )  # fmt: skip
            return True
        wait_s = caller.wait_s()
        if wait_s > 0:
            await _refuse(
                send, 429, "too_many_requests",
                f"the gateway takes {caller.per_minute} requests of this token a minute, this is "
                f"one more; send it again in {wait_s:.1f} s",
                {"retry-after": str(math.ceil(wait_s))},
            )  # fmt: skip
            return True
        return False

    async def _admitted(
        self,
        caller: Caller,
        headers: dict[bytes, bytes],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Runs a request in a place of its caller's, on behalf of the run it names."""
        self._take(caller, 1)
        run = headers.get(HEADER.lower().encode(), b"").decode("latin-1")
        token = CALLER.set(run or (caller.name if caller.token else ""))
        try:
            await self._limited(scope, receive, send)
        finally:
            CALLER.reset(token)
            self._take(caller, -1)

    def _take(self, caller: Caller, places: int) -> None:
        caller.active += places
        if self._recorder:
            self._recorder.pending(caller.name, caller.active)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the whole body first, so that one without a length is stopped at the limit."""
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_body:
                await self._too_large(send, len(body))
                return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _too_large(self, send: Send, size: int) -> None:
        await _refuse(
            send, 413, "too_large",
            f"a request has at most {self._max_body} bytes, got {size}; send a smaller image",
        )  # fmt: skip


async def _refuse(
    send: Send, status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> None:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    fields: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((key.encode(), value.encode()) for key, value in (headers or {}).items()),
    ]
    start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": fields}
    await send(start)
    await send({"type": "http.response.body", "body": body})
