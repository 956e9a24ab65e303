"""What is said of services: signs of life while they start, addresses when they run."""

from __future__ import annotations

import json

import pytest

from alphagrpo.cli import serve as serve_command
from alphagrpo.cli.console import Narrator
from alphagrpo.cli.serving import teller
from services import addresses as services_addresses
from services.addresses import Address
from services.waiting import AppState


def test_a_sign_of_life_is_an_event_and_what_runs_is_quiet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell = teller(Narrator(as_json=True))
    gpu = "resources: it needs GPU 1; no node has them"
    waiting = AppState(name="v", status="DEPLOYING", wanted=2, running=1, waits_for=gpu)
    running = AppState(name="d", status="RUNNING", wanted=1, running=1)
    for _ in range(3):
        tell({"v": waiting, "d": running})
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["application"] for event in events] == ["v", "d", "v", "v"]
    assert events[0]["event"] == "note"
    assert events[0]["text"].startswith(f"v: deploying, 1 of 2 replicas, waits for {gpu}")
    expected = {"status": "DEPLOYING", "running": 1, "wanted": 2, "waits_for": gpu}
    assert {key: events[0][key] for key in expected} == expected
    assert events[0]["seconds"] >= 0


@pytest.mark.parametrize("as_json", [False, True])
def test_serve_says_where_everything_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    gateway = Address(
        application="gateway",
        handle='ray.serve.get_app_handle("gateway")',
        url="http://127.0.0.1:8000",
        routes=("/v1/decompose", "/v1/info"),
        health="http://127.0.0.1:8000/healthz",
        token_variable="TOKEN",
    )
    judge = Address(application="verifier", handle='ray.serve.get_app_handle("verifier")')
    known = {"gateway": gateway, "verifier": judge}
    monkeypatch.setattr(services_addresses, "addresses", lambda names: [known[n] for n in names])
    serve_command.tell_addresses(["verifier", "gateway"], Narrator(as_json=as_json))
    out = capsys.readouterr().out
    if as_json:
        first, second = (json.loads(line) for line in out.splitlines())
        assert (first["application"], first["url"], first["routes"]) == ("verifier", "", [])
        assert second["health"] == "http://127.0.0.1:8000/healthz"
        assert second["call"] == gateway.call
    else:
        assert 'verifier: by handle alone; ray.serve.get_app_handle("verifier")' in out
        assert "/v1/decompose /v1/info" in out
        assert 'curl http://127.0.0.1:8000/v1/decompose -H "Authorization: Bearer $TOKEN"' in out
