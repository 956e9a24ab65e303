"""Client of the generator over its Serve handle: events of a request, as they happen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray.exceptions import RayTaskError

from alphagrpo.errors import MeshError, ServiceUnavailable
from services.retry import CallPolicy
from services.transport import HandleTransport, failure_of, is_retryable


class GeneratorClient:
    """Sends requests; a request that no replica has begun is sent again, others are not.

    Half a stream cannot be taken back: where a replica dies after its first event the caller is
    told, and may ask again with the same seed.
    """

    def __init__(self, app: str, policy: CallPolicy | None = None) -> None:
        self._transport, self._policy = HandleTransport(app), policy or CallPolicy()

    async def events(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Events of :mod:`services.generator.models` as JSON values.

        Raises ConfigError and BadImage for requests out of bounds, Overloaded where all queues are
        full, DeadlineExceeded, ServiceUnavailable.
        """
        for attempt in range(1, self._policy.max_attempts + 1):
            begun = False
            try:
                handle = self._transport.handle().options(stream=True)
                async for event in handle.generate.remote(
                    dict(request), **self._transport.caller()
                ):
                    begun = True
                    yield event
                return
            except Exception as error:
                cause = failure_of(error) if isinstance(error, RayTaskError) else error
                if begun or not is_retryable(cause) or attempt == self._policy.max_attempts:
                    raise _as_mesh_error(cause) from error
            await asyncio.sleep(self._policy.delay_s(attempt, random.random()))

    async def info(self) -> Mapping[str, Any]:
        """Weights and limits of a replica."""
        return dict(await self._transport.call("info"))


def _as_mesh_error(cause: BaseException) -> MeshError:
    if isinstance(cause, MeshError):
        return cause
    return ServiceUnavailable(
        f"the generator must finish a request it has begun, it failed with {type(cause).__name__}: "
        f"{cause}; ask again with the same seed"
    )


def connect_generator(
    *, app: str = "generator", max_attempts: int | None = None
) -> GeneratorClient:
    """A generator client; nothing is contacted before the first request.

    Of a client's patience only ``max_attempts`` applies (None: the default): how many requests are
    drawn at once and how long one may take is the generator's own setting.
    """
    policy = CallPolicy() if max_attempts is None else CallPolicy.of(max_attempts=max_attempts)
    return GeneratorClient(app, policy)
