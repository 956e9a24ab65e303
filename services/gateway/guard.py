"""What stands before the gateway's routes: token, size of the body, requests at once, who asks."""

from __future__ import annotations

import hmac
import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.caller import CALLER, HEADER

OPEN_PATHS = ("/healthz",)
"""Probes need no token; the interactive documentation does, like every other path."""


class Guard:
    """ASGI middleware. Answers 401, 413 and 429 itself, before a body is read or parsed."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        max_body_bytes: int,
        max_requests: int,
    ) -> None:
        self.app = app
        self._token = token.encode() if token else None
        self._max_body, self._max_requests = max_body_bytes, max_requests
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        headers = {key.lower(): value for key, value in scope["headers"]}
        if not self._authorised(headers.get(b"authorization", b"")):
            await _refuse(
                send, 401, "unauthorized",
                "callers send 'Authorization: Bearer <token>' with the gateway's token, got none "
                "or another; ask its operator for it", {"www-authenticate": "Bearer"},
            )  # fmt: skip
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body:
            await self._too_large(send, int(length))
            return
        if self._active >= self._max_requests:
            await _refuse(
                send, 429, "too_many_requests",
                f"the gateway takes {self._max_requests} requests at once, it has as many; wait "
                "a second and send it again", {"retry-after": "1"},
            )  # fmt: skip
            return
        self._active += 1
        caller = CALLER.set(headers.get(HEADER.lower().encode(), b"").decode("latin-1"))
        try:
            await self._limited(scope, receive, send)
        finally:
            CALLER.reset(caller)
            self._active -= 1

    def _authorised(self, header: bytes) -> bool:
        if self._token is None:
            return True
        scheme, _, token = header.partition(b" ")
        # Compared in constant time, so that answers do not tell how much of a guess was right.
        return hmac.compare_digest(token.strip(), self._token) and scheme.lower() == b"bearer"

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
