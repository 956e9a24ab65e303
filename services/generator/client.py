"""Client of the generator over its Serve handle: events of a request, as they happen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError

from alphagrpo.errors import MeshError, Overloaded, ServiceUnavailable
from services.retry import CallPolicy, PatientCaller
from services.transport import HandleTransport, failure_of, is_retryable

Event = dict[str, Any]


class GeneratorClient:
    """Sends requests; one that no replica could begin is sent again until the deadline.

    Half a stream cannot be taken back: where a replica dies after its first event the caller is
    told, and may ask again with the same seed. Full queues are told at once: whoever waits in none
    of them can wait better where the request comes from.
    """

    def __init__(self, app: str, policy: CallPolicy | None = None) -> None:
        self._transport = HandleTransport(app)
        self._caller = PatientCaller("generator", policy or CallPolicy(), _may_begin_later)

    async def events(self, request: Mapping[str, Any]) -> AsyncIterator[Event]:
        """Events of :mod:`services.generator.models` as JSON values.

        Raises ConfigError and BadImage for requests out of bounds, Overloaded where all queues are
        full, DeadlineExceeded, ServiceUnavailable.
        """
        stream = None
        try:
            first, stream = await self._caller.call(lambda: self._begin(request))
            yield first
            async for event in stream:
                yield event
        except MeshError:
            raise
        except Exception as error:
            cause = failure_of(error) if isinstance(error, RayTaskError) else error
            raise _as_mesh_error(cause) from error
        finally:
            if stream is not None:
                stream.cancel()

    async def _begin(self, request: Mapping[str, Any]) -> tuple[Event, Any]:
        """The first event of a request, and the stream of those after it."""
        handle = self._transport.handle().options(stream=True)
        stream = handle.generate.remote(dict(request), **self._transport.caller())
        try:
            return await anext(stream), stream
        except RayTaskError as error:
            raise failure_of(error) from None
        except BaseException:
            stream.cancel()
            raise

    async def info(self) -> Mapping[str, Any]:
        """Weights and limits of a replica."""
        return dict(await self._transport.call("info"))


def _may_begin_later(error: BaseException) -> bool:
    return is_retryable(error) and not isinstance(error, Overloaded | BackPressureError)


def _as_mesh_error(cause: BaseException) -> MeshError:
    if isinstance(cause, MeshError):
        return cause
    if isinstance(cause, BackPressureError):
        return Overloaded(
            f"a request waits in the generator's queue, that is full ({cause}); ask again a little "
            "later, or add replicas"
        )
    return ServiceUnavailable(
        f"the generator must finish a request it has begun, it failed with {type(cause).__name__}: "
        f"{cause}; ask again with the same seed"
    )


def connect_generator(*, app: str = "generator", **patience: Any) -> GeneratorClient:
    """A generator client; nothing is contacted before the first request.

    ``patience`` holds settings of :class:`alphagrpo.config.services.Patience`; it covers a request
    until a replica begins it. How many are drawn at once and how long one may take is the
    generator's own setting.
    """
    return GeneratorClient(app, CallPolicy.of(**patience))
