"""``/v1/generate``: the generator over HTTP, as one answer or as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse

from alphagrpo.errors import ConfigError, MeshError
from services.generator.models import GenerateRequest, GenerateResponse

ErrorResponse = Callable[[MeshError], JSONResponse]
"""A mesh error as the gateway answers it."""


class Generator(Protocol):
    """Who draws; see :func:`services.generator.client.connect_generator`."""

    def events(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Events of a request, as they happen."""
        ...

    async def info(self) -> Mapping[str, Any]:
        """Weights and limits."""
        ...


def add_generate(
    app: FastAPI,
    generator: Generator | None,
    errors: dict[int | str, dict[str, Any]],
    as_response: ErrorResponse,
) -> None:
    """Add the route; without a generator it answers with what to do about it."""

    @app.post("/v1/generate", response_model=GenerateResponse, responses=errors)
    async def generate(request: GenerateRequest) -> Any:
        """Draw, refine behind the DVReward gate, or edit.

        With ``stream`` the answer is ``text/event-stream``: ``stage``, ``round`` and ``done``
        events, or one ``error`` event.
        """
        if generator is None:
            raise ConfigError(
                "this gateway has no generator; deploy one and name it in generator_app"
            )
        events = generator.events(request.model_dump())
        if not request.stream:
            return await _collect(events)
        # What is refused before anything is drawn is an HTTP error, not an event.
        first = await anext(events)
        return StreamingResponse(
            _as_sse(first, events, as_response), media_type="text/event-stream"
        )


async def _collect(events: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    all_events = [event async for event in events]
    done = all_events[-1]
    return {
        "rounds": [event for event in all_events if event["event"] == "round"],
        "kept_round": done["kept_round"],
        "seconds": done["seconds"],
    }


async def _as_sse(
    first: dict[str, Any], events: AsyncIterator[dict[str, Any]], as_response: ErrorResponse
) -> AsyncIterator[str]:
    try:
        yield _line(first["event"], json.dumps(first))
        async for event in events:
            yield _line(event["event"], json.dumps(event))
    except MeshError as error:
        # The status is sent already: the error comes as the last event.
        yield _line("error", bytes(as_response(error).body).decode())


def _line(event: str, data: str) -> str:
    return f"event: {event}\ndata: {data}\n\n"
