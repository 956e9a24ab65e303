"""Grades and reward programs through the gateway, over fake services."""

from __future__ import annotations

import math
from typing import Any

import httpx
import numpy as np
import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.images import encode_png_base64
from alphagrpo.types import Prompt, Question, QuestionSet, Verdict
from services.client import VerifierClient
from services.gateway.app import create_app
from services.settings import GatewaySettings
from services.transport import HttpTransport
from tests.fakes import FakeVerifier, make_questions

PIXELS = np.full((16, 16, 3), 200, np.uint8)
BODY = {"prompt": "a fox", "image": encode_png_base64(PIXELS)}
GRADES = {"content": 0.9, "clean": 0.4, "c": 0.3}


class Services(FakeVerifier):
    """Fixed answers; ``ignorant`` judges answer grades with P(yes)."""

    def __init__(self, ignorant: bool = False) -> None:
        super().__init__(lambda _, question: GRADES.get(question.id, 0.64))
        self.ignorant = ignorant
        self.decomposed = 0

    async def decompose(self, prompt: Prompt) -> QuestionSet:
        self.decomposed += 1
        return make_questions(prompt.text)

    async def verify(self, pixels: Any, questions: Any) -> tuple[Verdict, ...]:
        if not self.ignorant:
            return await super().verify(pixels, questions)
        return tuple(Verdict(question_id=q.id, p_yes=0.5, judge="old@1") for q in questions)

    async def info(self) -> dict[str, Any]:
        return {"revision": "r@1"}


def http(services: Services, **settings: Any) -> httpx.AsyncClient:
    app = create_app(services, services, GatewaySettings(**settings))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


async def test_the_caller_chooses_the_program_by_name() -> None:
    services = Services()
    async with http(services) as client:
        found = {}
        for name in ("dvreward", "dvreward_binary", "holistic", "single_question"):
            answer = await client.post("/v1/score", json={**BODY, "program": name})
            assert answer.status_code == 200, answer.text
            found[name] = answer.json()
        listed = (await client.get("/v1/info")).json()["rewards"]
    assert listed == {"default": "dvreward", "programs": sorted(found)}
    assert [found[name]["program"] for name in found] == list(found)
    assert found["dvreward"]["reward"] == pytest.approx(0.64)
    assert found["dvreward_binary"]["reward"] == 1.0
    assert services.decomposed == 2, "what words its own questions needs no decomposer"
    whole = found["single_question"]
    assert (whole["reward"], whole["quality"], whole["aggregate"]) == (0.64, None, "single")
    graded = found["holistic"]
    assert graded["reward"] == pytest.approx(math.sqrt(9 * 4) / 10)
    assert [v["grade"] for v in graded["verdicts"]] == [9, 4]
    assert {q["form"] for q in graded["questions"]} == {"grade"}
    assert graded["revision"].startswith("holistic@")
    assert found["dvreward"]["revision"] == "fake@1"
    assert all(v["grade"] is None for v in found["dvreward"]["verdicts"])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"program": "viescore"}, "choose one of dvreward, dvreward_binary, holistic, single_"),
        ({"program": "tests.services.test_gateway_score:Services"}, "no reward program"),
        ({"program": "holistic", "questions": [{"id": "a", "text": "a ?"}]}, "leave questions"),
        ({"program": "holistic", "prompt": "  "}, "white space"),
    ],
)
async def test_programs_that_cannot_be_used_are_422(body: dict[str, Any], says: str) -> None:
    async with http(Services()) as client:
        answer = await client.post("/v1/score", json=BODY | body)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "invalid_request"
    assert says in answer.json()["error"]["message"]


async def test_a_judge_without_grades_gives_an_error_and_no_score() -> None:
    async with http(Services(ignorant=True)) as client:
        answer = await client.post("/v1/score", json={**BODY, "program": "holistic"})
    assert answer.status_code == 502
    assert "grade" in answer.json()["error"]["message"]


async def test_grades_go_over_http_as_over_handles() -> None:
    asked = (
        Question(id="c", text="how clean ?", kind="quality", tag="Whole", form="grade"),
        Question(id="s0", text="is it red ?", kind="semantic", tag="Attribute"),
    )
    services = Services()
    transport = HttpTransport("verifier", "http://gateway", client=http(services))
    graded, told = await VerifierClient(transport).verify(PIXELS, asked)
    assert (graded.p_yes, graded.grade) == (0.3, 3)
    assert (told.p_yes, told.grade) == (0.64, None)
    async with http(services) as client:
        odd = {"image": BODY["image"], "questions": [{"id": "a", "text": "a ?", "form": "essay"}]}
        assert (await client.post("/v1/verify", json=odd)).status_code == 422


def test_the_gateways_own_program_is_checked_before_it_serves() -> None:
    with pytest.raises(ConfigError, match="choose one of"):
        http(Services(), reward_program="odd")
    with pytest.raises(ConfigError, match="can be imported"):
        http(Services(), reward_program="nowhere.at_all:Thing")
