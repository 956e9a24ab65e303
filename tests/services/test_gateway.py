"""The gateway over fake services, by ASGI: every route, every class of error, every limit."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from openapi_spec_validator import validate
from ray.serve.exceptions import BackPressureError

from alphagrpo.errors import (
    ConfigError,
    DeadlineExceeded,
    NoQuestions,
    ServiceError,
    ServiceUnavailable,
)
from alphagrpo.images import encode_png_base64
from alphagrpo.judging.questions import questions_to_records
from alphagrpo.types import Prompt, Question, QuestionSet, Verdict
from services.client import DecomposerClient, VerifierClient
from services.gateway import app as gateway_app
from services.gateway.app import create_app
from services.raw_picture import MEDIA_TYPE, pack
from services.settings import GatewaySettings
from services.transport import HttpTransport

IMAGE = encode_png_base64(np.full((16, 16, 3), 200, np.uint8))
QUESTIONS = (
    Question(id="s0", text="is there a fox ?", kind="semantic", tag="Existence"),
    Question(id="q0", text="is it drawn well ?", kind="quality", tag="Aesthetics"),
)


class FakeServices:
    """Both services in one; ``error`` is raised by every call that is not ``info``."""

    def __init__(self, error: Exception | None = None, wait: asyncio.Event | None = None) -> None:
        self.error, self.wait = error, wait
        self.pixels: list[Any] = []
        self.healthy = True

    async def decompose(self, prompt: Prompt) -> QuestionSet:
        if self.error:
            raise self.error
        return QuestionSet(prompt=prompt.text, questions=QUESTIONS, revision="single@1")

    async def verify(self, pixels: Any, questions: Any) -> tuple[Verdict, ...]:
        if self.wait:
            await self.wait.wait()
        if self.error:
            raise self.error
        self.pixels.append(pixels)
        return tuple(Verdict(question_id=q.id, p_yes=0.64, judge="j@1") for q in questions)

    async def info(self) -> dict[str, Any]:
        if not self.healthy:
            raise ServiceUnavailable("gone")
        return {"revision": "r@1"}


def _http(services: FakeServices, **settings: Any) -> httpx.AsyncClient:
    app = create_app(services, services, GatewaySettings(**settings))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


async def test_decompose_verify_and_score():
    services = FakeServices()
    async with _http(services) as http:
        decomposed = (await http.post("/v1/decompose", json={"prompt": "a fox"})).json()
        assert [q["id"] for q in decomposed["questions"]] == ["s0", "q0"]
        body = {"image": IMAGE, "questions": ["is there a fox ?", decomposed["questions"][1]]}
        answer = (await http.post("/v1/verify", json=body)).json()
        assert [v["question_id"] for v in answer["verdicts"]] == ["s0", "q0"]
        scored = (await http.post("/v1/score", json={"prompt": "a fox", "image": IMAGE})).json()
    assert scored["reward"] == pytest.approx(0.64)
    assert scored["program"] == "dvreward"
    assert scored["revision"] == "single@1"
    assert services.pixels[0].shape == (16, 16, 3)


async def test_score_takes_the_callers_own_questions():
    own = [{"id": "a", "text": "is it so ?"}, {"id": "b", "text": "well ?", "kind": "quality"}]
    async with _http(FakeServices()) as http:
        body = {"prompt": "a fox", "image": IMAGE, "questions": own}
        scored = (await http.post("/v1/score", json=body)).json()
    assert [v["question_id"] for v in scored["verdicts"]] == ["a", "b"]
    assert scored["revision"] == "given"


async def test_raw_pixels_are_judged_as_a_png_is():
    services = FakeServices()
    shades = np.random.default_rng(3)
    pictures = [shades.integers(0, 256, (16, 12 + i, 3), dtype=np.uint8) for i in range(3)]
    async with _http(services) as http:
        body = pack([(pixels, QUESTIONS[: 1 + i % 2]) for i, pixels in enumerate(pictures)])
        headers = {"content-type": MEDIA_TYPE}
        raw = await http.post("/v1/verify/pixels", content=body, headers=headers)
        records = questions_to_records(QUESTIONS[:1])
        asked = {"image": encode_png_base64(pictures[0]), "questions": records}
        as_json = await http.post("/v1/verify", json=asked)
    assert raw.status_code == 200
    answers = raw.json()["answers"]
    assert [len(answer["verdicts"]) for answer in answers] == [1, 2, 1]
    assert answers[0] == as_json.json() | {"error": None}
    assert raw.headers["content-type"] == as_json.headers["content-type"] == "application/json"
    for seen, sent in zip(services.pixels, [*pictures, pictures[0]], strict=True):
        assert np.array_equal(seen, sent)


async def test_a_picture_without_verdicts_takes_none_from_the_others():
    class Choosy(FakeServices):
        async def verify(self, pixels: Any, questions: Any) -> tuple[Verdict, ...]:
            if pixels[0, 0, 0] in (1, 2):
                raise ServiceUnavailable("gone") if pixels[0, 0, 0] == 1 else ServiceError("odd")
            return await super().verify(pixels, questions)

    pictures = [(np.full((16, 16, 3), i, np.uint8), QUESTIONS) for i in range(3)]
    async with _http(Choosy()) as http:
        some = await http.post("/v1/verify/pixels", content=pack(pictures))
        none = await http.post("/v1/verify/pixels", content=pack(pictures[1:]))
    told, gone, odd = some.json()["answers"]
    assert (len(told["verdicts"]), told["error"]) == (2, None)
    assert gone["error"] == {"status": 503, "code": "unavailable", "message": "gone"}
    assert (odd["error"]["status"], odd["verdicts"]) == (502, [])
    assert (none.status_code, none.json()["error"]["code"]) == (503, "unavailable")


ONE = {"height": 16, "width": 16, "questions": ["a ?"]}


@pytest.mark.parametrize(
    ("head", "status", "message"),
    [
        ([{"height": 16, "width": 16}], 422, "questions"),
        ([ONE | {"questions": []}], 422, "questions"),
        ([ONE | {"questions": ["a ?"] * 5}], 422, "at most 4"),
        ([ONE | {"height": 15}], 400, "720 for 16 x 15, got 768 bytes"),
        ([ONE, ONE], 400, "768 for 16 x 16, got 0 bytes"),
        ([ONE | {"height": 1, "width": 256}], 400, "256 x 1"),
        ([ONE | {"height": 1 << 20, "width": 1 << 20}], 400, "pixels"),
        ([ONE | {"height": -1}], 422, "height"),
        ([ONE | {"depth": 1}], 422, "depth"),
        ([], 422, "at least 1"),
        ([ONE] * 5, 422, "at most 4"),
        ("no list", 422, "list"),
        (None, 400, "see /docs"),
    ],
)
async def test_bad_raw_pixels_say_what_is_wrong(head, status, message):
    first = b"{" if head is None else json.dumps(head).encode()
    async with _http(FakeServices(), max_questions=4) as http:
        answer = await http.post("/v1/verify/pixels", content=first + b"\n" + bytes(768))
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NoQuestions("none"), 422, "no_questions"),
        (ConfigError("wrong"), 422, "invalid_request"),
        (ServiceUnavailable("gone"), 503, "unavailable"),
        (DeadlineExceeded("late"), 504, "deadline_exceeded"),
        (ServiceError("odd"), 502, "service_error"),
        (_caused(ServiceUnavailable("x"), BackPressureError(1, 1)), 429, "too_many_requests"),
    ],
)
async def test_service_errors_have_their_status(error, status, code):
    async with _http(FakeServices(error)) as http:
        answer = await http.post("/v1/verify", json={"image": IMAGE, "questions": ["a ?"]})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("verify", {"image": "???", "questions": ["a ?"]}, 400, "base64"),
        ("verify", {"image": "aGVsbG8=", "questions": ["a ?"]}, 400, "whole PNG or JPEG"),
        ("verify", {"image": IMAGE, "questions": []}, 422, "questions"),
        ("verify", {"image": IMAGE, "questions": ["a ?"] * 5}, 422, "at most 4"),
        ("verify", {"image": IMAGE, "question": "a ?"}, 422, "question"),
        ("verify", {"image": IMAGE, "questions": [{"id": "a", "text": "x"}] * 2}, 422, "share"),
        ("score", {"prompt": "p", "image": IMAGE, "program": "odd"}, 422, "dvreward"),
        ("decompose", {}, 422, "prompt"),
    ],
)
async def test_bad_requests_say_what_is_wrong(path, body, status, message):
    async with _http(FakeServices(), max_questions=4) as http:
        answer = await http.post(f"/v1/{path}", json=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


async def test_malformed_json_is_400():
    async with _http(FakeServices()) as http:
        headers = {"content-type": "application/json"}
        answer = await http.post("/v1/decompose", content=b'{"prompt', headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "malformed_json"


async def test_a_large_body_is_413_with_and_without_a_length():
    body = b'{"prompt": "' + b"x" * 3000 + b'"}'

    async def stream():
        yield body[:2000]
        yield body[2000:]

    async with _http(FakeServices(), max_body_bytes=2048) as http:
        for content in (body, stream()):
            answer = await http.post("/v1/decompose", content=content)
            assert answer.status_code == 413
            assert "2048 bytes" in answer.json()["error"]["message"]


async def test_a_large_image_is_refused():
    big = encode_png_base64(np.zeros((64, 64, 3), np.uint8))
    async with _http(FakeServices(), max_image_pixels=1024) as http:
        answer = await http.post("/v1/verify", json={"image": big, "questions": ["a ?"]})
    assert answer.status_code == 400
    assert "1024 pixels" in answer.json()["error"]["message"]


async def test_more_requests_at_once_than_allowed_are_429():
    gate = asyncio.Event()
    async with _http(FakeServices(wait=gate), max_concurrency=1) as http:
        body = {"image": IMAGE, "questions": ["a ?"]}
        first = asyncio.create_task(http.post("/v1/verify", json=body))
        await asyncio.sleep(0.02)
        second = await asyncio.wait_for(http.post("/v1/verify", json=body), timeout=5)
        gate.set()
        assert (await first).status_code == 200
    assert second.status_code == 429
    assert second.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("header", "status"),
    [("Bearer right", 200), ("bearer right", 200), ("Bearer wrong", 401), ("Basic right", 401),
     ("", 401)],
)  # fmt: skip
async def test_the_token_guards_all_but_the_probe(monkeypatch, header, status):
    monkeypatch.setenv("GATEWAY_TOKEN", "right")
    async with _http(FakeServices(), token_variable="GATEWAY_TOKEN") as http:
        headers = {"Authorization": header} if header else {}
        answer = await http.post("/v1/decompose", json={"prompt": "a"}, headers=headers)
        assert answer.status_code == status
        assert (await http.get("/openapi.json")).status_code == 401
        assert (await http.get("/healthz")).status_code == 200


def test_a_named_but_unset_token_is_refused(monkeypatch):
    monkeypatch.delenv("GATEWAY_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="GATEWAY_TOKEN"):
        _http(FakeServices(), token_variable="GATEWAY_TOKEN")


async def test_health_names_the_service_that_is_gone():
    services = FakeServices()
    async with _http(services) as http:
        well = await http.get("/healthz")
        services.healthy = False
        ill = await http.get("/healthz")
    assert (well.status_code, well.json()["status"]) == (200, "ok")
    assert ill.status_code == 503
    assert "gone" in ill.json()["services"]["verifier"]


async def test_openapi_is_valid_and_shows_examples():
    async with _http(FakeServices()) as http:
        document = (await http.get("/openapi.json")).json()
        assert (await http.get("/docs")).status_code == 200
    validate(document)
    posts = {"/v1/decompose", "/v1/verify", "/v1/verify/pixels", "/v1/score", "/v1/generate"}
    assert posts | {"/healthz", "/v1/info"} == set(document["paths"])
    for path in posts:
        assert {"400", "401", "413", "422", "429", "503", "504"} <= set(
            document["paths"][path]["post"]["responses"]
        )
    example = document["components"]["schemas"]["VerifyRequest"]["properties"]["image"]["examples"]
    assert base64.b64decode(example[0]).startswith(b"\x89PNG")


async def test_the_examples_image_is_accepted():
    from services.gateway.models import EXAMPLE_IMAGE

    async with _http(FakeServices()) as http:
        body = {"image": EXAMPLE_IMAGE, "questions": ["is it red ?"]}
        assert (await http.post("/v1/verify", json=body)).status_code == 200


async def test_clients_speak_to_the_gateway_as_to_the_services():
    services = FakeServices()
    make: Callable[[str], HttpTransport] = lambda name: HttpTransport(  # noqa: E731
        name, "http://gateway", client=_http(services)
    )
    verifier, decomposer = VerifierClient(make("verifier")), DecomposerClient(make("decomposer"))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    question_set = await decomposer.decompose(Prompt(id="p", text="a fox"))
    verdicts = await verifier.verify(pixels, question_set.questions)
    assert question_set.questions == QUESTIONS
    assert [v.p_yes for v in verdicts] == [0.64, 0.64]
    assert np.array_equal(services.pixels[0], pixels)
    assert await decomposer.revision() == "r@1"


def test_a_replica_reaches_the_named_applications_with_the_gateways_patience(monkeypatch):
    reached = {}

    def connect(service: str) -> Callable[..., str]:
        def connected(**options: Any) -> str:
            reached[service] = options
            return service

        return connected

    for service in ("decomposer", "verifier", "generator"):
        monkeypatch.setattr(gateway_app, f"connect_{service}", connect(service))
    monkeypatch.setattr(gateway_app, "create_app", lambda *services: services)
    args = {"decomposer_app": "d", "verifier_app": "v", "deadline_s": 99.0}
    patience = {"max_concurrency": 64, "deadline_s": 99.0}
    settings = GatewaySettings(**args)
    monkeypatch.setattr(gateway_app, "listening_host", lambda: "127.0.0.1")
    recorder = gateway_app.GatewayMetrics
    assert gateway_app._served_app(args) == ("decomposer", "verifier", settings, None, recorder)
    pictures = patience | {"max_concurrency": 4 * 64}
    assert reached == {"decomposer": {"app": "d", **patience}, "verifier": {"app": "v", **pictures}}
    gateway_app._served_app({**args, "generator_app": "g"})
    assert reached["generator"] == {"app": "g", **patience}
    monkeypatch.setattr(gateway_app, "listening_host", lambda: "0.0.0.0")
    with pytest.raises(ConfigError, match="another host than loopback"):
        gateway_app._served_app(args)
