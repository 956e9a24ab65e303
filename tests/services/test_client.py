"""Clients over fake transports: retries, deadline, slots, store, and typed errors. No Ray."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import httpx
import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError

from alphagrpo.config.schema import ServiceConfig
from alphagrpo.errors import (
    BadImage,
    ConfigError,
    DeadlineExceeded,
    NoQuestions,
    ServiceError,
    ServiceUnavailable,
)
from alphagrpo.judging.store import QuestionStore
from alphagrpo.types import Prompt, Question, QuestionSet, Verdict
from services import raw_picture
from services.caller import CALLER
from services.client import (
    DecomposerClient,
    VerifierClient,
    connect_decomposer,
    connect_verifier,
)
from services.retry import CallPolicy
from services.transport import HttpTransport

PIXELS = np.zeros((8, 8, 3), np.uint8)
QUESTIONS = (
    Question(id="s0", text="is there a fox ?", kind="semantic", tag="Existence"),
    Question(id="q0", text="is it drawn well ?", kind="quality", tag="Aesthetics"),
)
QUICK = CallPolicy(first_delay_s=0.001, deadline_s=5.0)
HASTY = CallPolicy(first_delay_s=0.01, deadline_s=0.1)
PROMPT = Prompt(id="p0", text="a fox")


class FakeTransport:
    """Raises the given errors one after the other, then answers."""

    def __init__(self, *errors: Exception, wait_s: float = 0.0) -> None:
        self.errors = list(errors)
        self.wait_s = wait_s
        self.bad: set[int] = set()
        """First pixels of pictures that have no verdicts."""
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.active = self.most_active = 0

    async def call(self, method: str, *args: Any) -> Any:
        self.calls.append((method, args))
        number = len(args[0]) if method == "verify_all" else 1
        self.active += number
        self.most_active = max(self.active, self.most_active)
        try:
            await asyncio.sleep(self.wait_s)
        finally:
            self.active -= number
        if self.errors:
            raise self.errors.pop(0)
        if method == "info":
            return {"revision": "single@1"}
        if method == "decompose":
            return QuestionSet(prompt=args[0], questions=QUESTIONS, revision="single@1")
        if method == "verify_all":
            return [self.picture(*asked) for asked in args[0]]
        return self.picture(*args)

    def picture(self, pixels: Any, questions: Any) -> Any:
        if pixels[0, 0, 0] in self.bad:
            return BadImage("bad")
        return [Verdict(question_id=q.id, p_yes=0.5, judge="j") for q in questions]


@pytest.mark.parametrize(
    "error",
    [
        BackPressureError(3, 3),
        ActorDiedError(),
        ActorUnavailableError("away", None),
        ServiceUnavailable("engine is dead"),
    ],
)
async def test_what_passes_is_retried(error):
    transport = FakeTransport(error, error)
    client = VerifierClient(transport, QUICK)
    verdicts = await client.verify(PIXELS, QUESTIONS)
    assert [v.question_id for v in verdicts] == ["s0", "q0"]
    assert len(transport.calls) == 3
    assert client.stats.retries == 2
    assert client.stats.answered == 1
    assert client.stats.in_flight == 0


@pytest.mark.parametrize("error", [NoQuestions("none"), ConfigError("bad"), ServiceError("odd")])
async def test_what_will_not_pass_is_raised_at_once(error):
    transport = FakeTransport(error)
    client = DecomposerClient(transport, QUICK)
    with pytest.raises(type(error)):
        await client.decompose(PROMPT)
    assert len(transport.calls) == 1
    assert client.stats.failed == 1


async def test_unavailable_is_asked_again_until_the_deadline():
    transport = FakeTransport(*[BackPressureError(3, 3)] * 20)
    client = VerifierClient(transport, CallPolicy(first_delay_s=0.001, max_delay_s=0.002))
    await client.verify(PIXELS, QUESTIONS)
    assert len(transport.calls) == 21
    hasty = VerifierClient(FakeTransport(*[BackPressureError(3, 3)] * 999), HASTY)
    with pytest.raises(ServiceUnavailable, match=r"within 0\.1 s.*BackPressureError") as caught:
        await hasty.verify(PIXELS, QUESTIONS)
    assert isinstance(caught.value.__cause__, BackPressureError)


async def test_the_deadline_covers_attempts_and_waiting():
    client = VerifierClient(FakeTransport(wait_s=5.0), CallPolicy(deadline_s=0.05))
    with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
        await client.verify(PIXELS, QUESTIONS)
    waiting = VerifierClient(
        FakeTransport(wait_s=0.06), CallPolicy(deadline_s=0.1, max_concurrency=1)
    )
    answers = await asyncio.gather(
        *(waiting.verify(PIXELS, QUESTIONS) for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(answer, DeadlineExceeded) for answer in answers) == 2
    assert waiting.stats.late == 2


async def test_a_service_timeout_is_not_taken_for_the_clients_own():
    client = VerifierClient(FakeTransport(DeadlineExceeded("the gateway gave up")), QUICK)
    with pytest.raises(DeadlineExceeded, match="the gateway gave up"):
        await client.verify(PIXELS, QUESTIONS)
    assert client.stats.late == 0


async def test_no_more_pictures_at_once_than_slots():
    transport = FakeTransport(wait_s=0.002)
    client = VerifierClient(transport, CallPolicy(max_concurrency=3))
    await asyncio.gather(*(client.verify(PIXELS, QUESTIONS) for _ in range(12)))
    assert transport.most_active == 3
    assert client.stats.answered == 12


def test_a_client_serves_one_event_loop_after_another():
    client = VerifierClient(FakeTransport(wait_s=0.001), CallPolicy(max_concurrency=1))

    async def twice() -> None:
        await asyncio.gather(client.verify(PIXELS, QUESTIONS), client.verify(PIXELS, QUESTIONS))

    asyncio.run(twice())
    asyncio.run(twice())
    assert client.stats.answered == 4


async def test_a_broken_picture_is_never_sent():
    transport = FakeTransport()
    with pytest.raises(BadImage):
        await VerifierClient(transport).verify(PIXELS[..., 0], QUESTIONS)
    assert await VerifierClient(transport).verify(PIXELS, ()) == ()
    assert transport.calls == []


async def test_verdicts_for_other_questions_are_refused():
    class Confused(FakeTransport):
        async def call(self, method: str, *args: Any) -> Any:
            return [Verdict(question_id="x", p_yes=0.5, judge="j")]

    with pytest.raises(ServiceError, match="one verdict per question"):
        await VerifierClient(Confused()).verify(PIXELS, QUESTIONS)


async def test_the_store_is_asked_first(tmp_path):
    store = QuestionStore(tmp_path)
    first = DecomposerClient(FakeTransport(), QUICK, store)
    question_set = await first.decompose(PROMPT)
    transport = FakeTransport()
    second = DecomposerClient(transport, QUICK, store)
    assert await second.decompose(PROMPT) == question_set
    assert [method for method, _ in transport.calls] == ["info"]
    assert (first.store_hits, second.store_hits) == (0, 1)


async def test_an_answer_is_not_kept_for_ever_without_a_store():
    """The same prompt later on is asked again: the decomposer may have been deployed anew."""
    transport = FakeTransport()
    client = DecomposerClient(transport, QUICK)
    for _ in range(2):
        await client.decompose(PROMPT)
        await asyncio.sleep(0)
    assert len(transport.calls) == 2


async def test_a_prompt_asked_twice_at_once_is_sent_once_and_survives_one_quitter():
    transport = FakeTransport(wait_s=0.01)
    client = DecomposerClient(transport, QUICK)
    quitter = asyncio.create_task(client.decompose(PROMPT))
    other = asyncio.create_task(client.decompose(PROMPT))
    await asyncio.sleep(0)
    quitter.cancel()
    assert (await other).prompt == "a fox"
    assert len(transport.calls) == 1


def test_factories_take_the_run_configs_options_and_pickle():
    config = ServiceConfig(max_concurrency=5, deadline_s=9.0)
    client = connect_verifier(**config.verifier_options())
    assert client._caller.policy.max_concurrency == 5
    decomposer = connect_decomposer(**config.decomposer_options())
    assert decomposer._store is None
    for client_of_run in (
        connect_verifier(**config.verifier_options(run="r")),
        connect_decomposer(**config.decomposer_options(run="r")),
    ):
        assert client_of_run._transport.caller() == {"run": "r"}
    assert pickle.loads(pickle.dumps(connect_verifier)) is connect_verifier


@pytest.mark.parametrize("options", [{"max_concurrency": 0}, {"deadline_s": 0.0}])
def test_impossible_patience_is_refused(options):
    with pytest.raises(ConfigError):
        connect_verifier(**options)
    with pytest.raises(ConfigError, match="http"):
        connect_verifier(url="localhost:8000")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"code": "bad_image", "message": "no"}}, BadImage),
        (422, {"error": {"code": "no_questions", "message": "no"}}, NoQuestions),
        (504, {"error": {"code": "deadline_exceeded", "message": "no"}}, DeadlineExceeded),
        (401, {"error": {"code": "unauthorized", "message": "no"}}, ServiceError),
        (429, {"error": {"code": "too_many_requests", "message": "no"}}, ServiceUnavailable),
        (503, "not json", ServiceUnavailable),
    ],
)
async def test_gateway_answers_become_the_same_errors(status, body, kind):
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=body)

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://gateway")
    client = VerifierClient(HttpTransport("verifier", "http://gateway", client=http), HASTY)
    with pytest.raises(kind):
        await client.verify(PIXELS, QUESTIONS)


async def test_a_gateway_that_is_away_is_retried():
    requests = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal requests
        requests += 1
        if requests == 1:
            raise httpx.ConnectError("refused")
        record = {"question_id": "s0", "p_yes": 0.25, "judge": "j"}
        return httpx.Response(200, json={"answers": [{"verdicts": [record]}]})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://gateway")
    client = VerifierClient(HttpTransport("verifier", "http://gateway", client=http), QUICK)
    verdicts = await client.verify(PIXELS, QUESTIONS[:1])
    assert verdicts == (Verdict(question_id="s0", p_yes=0.25, judge="j"),)
    assert client.stats.retries == 1


@pytest.mark.parametrize(("most_bytes", "path"), [(192, "verify/pixels"), (191, "verify")])
async def test_a_picture_goes_raw_unless_it_is_large(monkeypatch, most_bytes, path):
    monkeypatch.setattr(raw_picture, "MOST_BYTES", most_bytes)
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.path, request.headers["content-type"]))
        verdicts = [{"question_id": q.id, "p_yes": 0.25, "judge": "j"} for q in QUESTIONS]
        alone = {"verdicts": verdicts}
        return httpx.Response(200, json=alone | {"answers": [alone]})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://gateway")
    client = VerifierClient(HttpTransport("verifier", "http://gateway", client=http), QUICK)
    assert len(await client.verify(PIXELS, QUESTIONS)) == 2
    kind = raw_picture.MEDIA_TYPE if path.endswith("pixels") else "application/json"
    assert seen == [(f"/v1/{path}", kind)]


async def test_pictures_of_a_group_go_a_few_to_a_call():
    transport = FakeTransport()
    client = VerifierClient(transport, QUICK)
    pictures = [np.full((8, 8, 3), shade, np.uint8) for shade in range(9)]
    transport.bad = {5}
    answers = await asyncio.gather(
        *(client.verify(pixels, QUESTIONS) for pixels in pictures), return_exceptions=True
    )
    assert [method for method, _ in transport.calls] == ["verify_all", "verify_all", "verify"]
    assert [len(args[0]) for _, args in transport.calls[:2]] == [4, 4]
    assert [i for i, answer in enumerate(answers) if isinstance(answer, BadImage)] == [5]
    assert (client.stats.calls, client.stats.answered) == (9, 8)


async def test_pictures_of_different_callers_go_apart():
    transport = FakeTransport()
    client = VerifierClient(transport, QUICK)

    async def ask(run: str) -> None:
        CALLER.set(run)
        await client.verify(PIXELS, QUESTIONS)

    await asyncio.gather(*(ask(run) for run in ("a", "b", "a")))
    assert [method for method, _ in transport.calls] == ["verify_all", "verify"]


async def test_errors_of_some_pictures_come_over_http_as_they_are():
    def answer(request: httpx.Request) -> httpx.Response:
        verdicts = [{"question_id": q.id, "p_yes": 0.25, "judge": "j"} for q in QUESTIONS]
        bad = {"status": 400, "code": "bad_image", "message": "bad"}
        return httpx.Response(
            200, json={"answers": [{"verdicts": verdicts, "error": None}, {"error": bad}]}
        )

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://gateway")
    client = VerifierClient(HttpTransport("verifier", "http://gateway", client=http), QUICK)
    good, bad = await asyncio.gather(
        *(client.verify(PIXELS, QUESTIONS) for _ in range(2)), return_exceptions=True
    )
    assert [verdict.p_yes for verdict in good] == [0.25, 0.25]
    assert isinstance(bad, BadImage)
