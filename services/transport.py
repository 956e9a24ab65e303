"""How a call reaches a service: by Serve handle inside a cluster, or over HTTP to a gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import httpx
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)

from alphagrpo.errors import (
    BadImage,
    ConfigError,
    DeadlineExceeded,
    MeshError,
    NoQuestions,
    ServiceError,
    ServiceUnavailable,
)
from services.caller import CALLER, HEADER

_RETRYABLE = (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
    RayActorError,
    ServiceUnavailable,
)
_BY_CODE: dict[str, type[ServiceError]] = {
    "bad_image": BadImage,
    "no_questions": NoQuestions,
    "deadline_exceeded": DeadlineExceeded,
    "unavailable": ServiceUnavailable,
}


class Transport(Protocol):
    """One attempt at a call."""

    async def call(self, method: str, *args: Any) -> Any:
        """The answer of the service's ``method``; raises mesh errors or retryable ones."""
        ...


def is_retryable(error: BaseException) -> bool:
    """Whether the same call may succeed if sent again.

    True for back-pressure, a dead or unavailable replica (also one that died while it ran the
    request, which Serve does not retry), and a request cancelled by a replica's shutdown.
    """
    return isinstance(error, _RETRYABLE)


class HandleTransport:
    """Calls a Serve application of this cluster by its handle."""

    def __init__(self, app: str, run: str = "") -> None:
        self.app, self.run = app, run
        self._handle: Any = None

    async def call(self, method: str, *args: Any) -> Any:
        """See :class:`Transport`."""
        tags = {} if method == "info" else self.caller()
        response = getattr(self.handle(), method).remote(*args, **tags)
        try:
            return await response
        except RayTaskError as error:
            raise failure_of(error) from None
        except BaseException:
            response.cancel()
            raise

    def caller(self) -> dict[str, str]:
        """The argument that says which run asks: this client's own, or that of a request it serves.

        Nothing where nobody said, so that a replica need not know of it.
        """
        run = self.run or CALLER.get()
        return {"run": run} if run else {}

    def handle(self) -> Any:
        """The application's handle; ServiceUnavailable where it does not run in this cluster."""
        if self._handle is None:
            try:
                self._handle = serve.get_app_handle(self.app)
            except RayServeException as error:
                raise ServiceUnavailable(
                    f"the Serve application {self.app!r} must be running in this cluster, Serve "
                    f"says: {error}; deploy it first (serve deploy deploy/serve/shapes.yaml)"
                ) from error
        return self._handle


def failure_of(error: RayTaskError) -> BaseException:
    """What the replica really raised; mesh errors come back as themselves."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, MeshError) or is_retryable(cause or error):
        return cause or error
    return ServiceError(
        f"the service failed with {type(cause or error).__name__}: {cause or error}"
    )


class HttpTransport:
    """Posts to a gateway. Answers other than 200 become the same errors a handle raises."""

    def __init__(
        self,
        service: str,
        url: str,
        token: str | None = None,
        *,
        run: str = "",
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self.service = service
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"a gateway's URL starts with http:// or https://, got {url!r}")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if run:
            headers[HEADER] = run
        # No client-side limit of time: the caller's deadline covers the whole call.
        self._client = client or httpx.AsyncClient(
            base_url=url.rstrip("/"), headers=headers, timeout=None
        )

    async def call(self, method: str, *args: Any) -> Any:
        """POST ``args[0]`` to ``/v1/<method>``; ``info`` is a GET of this service's part."""
        if method == "info":
            return (await self._answer("GET", method))[self.service]
        return await self._answer("POST", method, json=args[0])

    async def post_bytes(self, method: str, body: bytes, media_type: str) -> Any:
        """POST ``body`` as it is; fails as :meth:`call` does."""
        headers = {"Content-Type": media_type}
        return await self._answer("POST", method, content=body, headers=headers)

    async def _answer(self, verb: str, method: str, **content: Any) -> Any:
        try:
            response = await self._client.request(verb, f"/v1/{method}", **content)
        except httpx.TransportError as error:
            raise ServiceUnavailable(
                f"the gateway at {self._client.base_url} must accept connections: "
                f"{type(error).__name__}; check its address and that it is running"
            ) from error
        if response.status_code == httpx.codes.OK:
            return response.json()
        raise _http_error(response)


def _http_error(response: httpx.Response) -> Exception:
    try:
        body = response.json()["error"]
        code, message = str(body["code"]), str(body["message"])
    except (ValueError, KeyError, TypeError):
        code, message = "", response.text[:200]
    return answer_error({"status": response.status_code, "code": code, "message": message})


def answer_error(error: Mapping[str, Any]) -> Exception:
    """An error that a gateway answers with, its HTTP status beside code and message."""
    status, message = int(error["status"]), str(error["message"])
    if kind := _BY_CODE.get(error["code"]):
        return kind(message)
    if status in (429, 502, 503):
        return ServiceUnavailable(f"the gateway answered {status}: {message}")
    return ServiceError(f"the gateway answered {status}: {message}")
