"""One attempt at a call: by handle with the replica's own errors, over HTTP with the gateway's."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError

from alphagrpo.errors import BadImage, NoQuestions, ServiceError, ServiceUnavailable
from services import transport
from services.caller import CALLER, HEADER
from services.transport import HandleTransport, HttpTransport, failure_of, is_retryable


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("call", "traceback", cause)


class FakeResponse:
    """A Serve response: fails or answers when it is awaited."""

    def __init__(self, result: Any) -> None:
        self.result, self.cancelled = result, False

    def __await__(self) -> Any:
        yield from ()
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def cancel(self) -> None:
        self.cancelled = True


class FakeHandle:
    def __init__(self, result: Any) -> None:
        self.response = FakeResponse(result)
        self.calls: list[tuple[Any, ...]] = []
        self.named: list[dict[str, Any]] = []

    @property
    def verify(self) -> Any:
        return self

    info = verify

    def remote(self, *args: Any, **named: Any) -> FakeResponse:
        self.calls.append(args)
        self.named.append(named)
        return self.response


def by_handle(result: Any) -> tuple[HandleTransport, FakeHandle]:
    handle = FakeHandle(result)
    by = HandleTransport("verifier")
    by._handle = handle
    return by, handle


async def test_a_handle_is_called_with_the_arguments() -> None:
    by, handle = by_handle([1, 2])
    assert await by.call("verify", "pixels", "questions") == [1, 2]
    assert handle.calls == [("pixels", "questions")]
    assert not handle.response.cancelled


async def test_a_call_says_which_run_asks_where_there_is_one() -> None:
    by, handle = by_handle([1])
    await by.call("verify", "pixels")
    assert handle.named == [{}], "a replica that knows nothing of runs can be called"
    caller = CALLER.set("of-the-request")
    await by.call("verify", "pixels")
    by.run = "own"
    await by.call("verify", "pixels")
    await by.call("info")
    CALLER.reset(caller)
    assert handle.named[1:] == [{"run": "of-the-request"}, {"run": "own"}, {}]


async def test_a_run_is_a_header_over_http() -> None:
    by = HttpTransport("verifier", "http://gateway", "secret", run="own")
    assert by._client.headers[HEADER] == "own"
    assert HEADER not in HttpTransport("verifier", "http://gateway")._client.headers


async def test_a_replicas_mesh_error_comes_back_as_itself() -> None:
    by, _ = by_handle(task_error(BadImage("grey")))
    with pytest.raises(BadImage, match="grey"):
        await by.call("verify")


async def test_a_call_that_is_given_up_is_cancelled_at_the_replica() -> None:
    error = KeyboardInterrupt()
    by, handle = by_handle(error)
    with pytest.raises(KeyboardInterrupt):
        await by.call("verify")
    assert handle.response.cancelled


def test_an_application_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(app: str) -> Any:
        raise RayServeException(f"no {app}")

    monkeypatch.setattr(transport.serve, "get_app_handle", missing)
    with pytest.raises(ServiceUnavailable, match=r"'judge' must be running.*no judge.*deploy"):
        HandleTransport("judge").handle()


def test_a_handle_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    apps: list[str] = []
    monkeypatch.setattr(transport.serve, "get_app_handle", lambda app: apps.append(app) or "h")
    by = HandleTransport("judge")
    assert by.handle() == by.handle() == "h"
    assert apps == ["judge"]


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (BackPressureError(3, 3), True),
        (ActorDiedError(), True),
        (RequestCancelledError("r"), True),
        (ServiceUnavailable("gone"), True),
        (ServiceError("odd"), False),
        (NoQuestions("none"), False),
        (ValueError("odd"), False),
        (TimeoutError(), False),
    ],
)
def test_what_may_pass_is_worth_a_retry(error: Exception, retryable: bool) -> None:
    assert is_retryable(error) is retryable
    failure = failure_of(task_error(error))
    assert is_retryable(failure) is retryable
    known = retryable or isinstance(error, ServiceError)
    assert type(failure) is (type(error) if known else ServiceError)
    if not known:
        assert type(error).__name__ in str(failure)


def over_http(answer: httpx.Response) -> tuple[HttpTransport, list[httpx.Request]]:
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return answer

    client = httpx.AsyncClient(transport=httpx.MockTransport(respond), base_url="http://gateway")
    return HttpTransport("verifier", "http://gateway", client=client), requests


async def test_a_method_is_a_post_to_its_route_and_info_a_get_of_ones_own_part() -> None:
    by, requests = over_http(httpx.Response(200, json={"verifier": {"revision": "v"}, "x": 1}))
    assert (await by.call("verify", {"image": "i"}))["x"] == 1
    assert await by.call("info") == {"revision": "v"}
    assert [(r.method, r.url.path) for r in requests] == [
        ("POST", "/v1/verify"),
        ("GET", "/v1/info"),
    ]
    assert json.loads(requests[0].content) == {"image": "i"}


def test_the_token_goes_into_the_header_and_no_limit_of_time_is_set() -> None:
    by = HttpTransport("verifier", "http://gateway/", "secret")
    assert by._client.headers["authorization"] == "Bearer secret"
    assert by._client.timeout == httpx.Timeout(None)
    assert "authorization" not in HttpTransport("verifier", "http://gateway")._client.headers


@pytest.mark.parametrize(
    ("status", "passes"), [(429, True), (502, True), (503, True), (500, False)]
)
async def test_statuses_without_a_known_code_pass_or_do_not(status: int, passes: bool) -> None:
    by, _ = over_http(httpx.Response(status, text="proxy says no"))
    with pytest.raises(ServiceError, match=f"answered {status}: proxy says no") as caught:
        await by.call("verify", {})
    assert is_retryable(caught.value) is passes


async def test_bytes_are_posted_as_they_are() -> None:
    by, requests = over_http(httpx.Response(200, json={"verdicts": []}))
    assert await by.post_bytes("verify/pixels", b"\x00\n", "image/x") == {"verdicts": []}
    (request,) = requests
    assert (request.url.path, request.content) == ("/v1/verify/pixels", b"\x00\n")
    assert request.headers["content-type"] == "image/x"
    by, _ = over_http(httpx.Response(503, text="gone"))
    with pytest.raises(ServiceUnavailable, match="gone"):
        await by.post_bytes("verify/pixels", b"", "image/x")
