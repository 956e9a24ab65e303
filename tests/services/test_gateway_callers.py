"""Whose token it is, what each caller may take, and where a gateway may listen without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from alphagrpo.errors import ConfigError
from services.addresses import addresses_of
from services.exposure import check_exposure, is_loopback
from services.gateway.callers import Caller, callers_of
from services.serve_config import read_serve_file
from services.settings import GatewaySettings, parse_settings

TOKENS = {"TOKEN_A": "aaa", "TOKEN_B": "bbb\n", "TOKEN_C": "ccc"}


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)


def settings(*callers: dict[str, Any], **options: Any) -> GatewaySettings:
    named = [
        {"name": name, "token_variable": f"TOKEN_{name.upper()}", **own}
        for name, own in zip("abc", callers, strict=False)
    ]
    return parse_settings(GatewaySettings, {"callers": named, **options}, "gateway")


def test_a_token_names_its_caller_and_nobody_elses_does(tokens: None) -> None:
    callers = callers_of(settings({}, {}))
    names = {header: callers.who(header) for header in (b"Bearer aaa", b"bearer bbb")}
    assert [caller and caller.name for caller in names.values()] == ["a", "b"]
    for header in (b"", b"Bearer", b"Bearer ", b"Bearer ccc", b"Basic aaa", b"Bearer aaa bbb"):
        assert callers.who(header) is None
    assert callers.names == ("a", "b")


def test_callers_without_a_number_share_what_the_others_leave(tokens: None) -> None:
    callers = callers_of(settings({"max_concurrency": 4}, {}, {}, max_concurrency=14))
    places = [callers.who(f"Bearer {t}".encode()).max_requests for t in ("aaa", "bbb", "ccc")]
    assert places == [4, 5, 5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token_variable": "TOKEN_A"}, "token_variable is for one caller"),
        ({"max_concurrency": 1}, "add up to at most the gateway's, 1, they add up to 2"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings({}, {}, **options)


def test_names_are_distinct_and_fit_a_tag() -> None:
    for names in (("a", "a"), ("a b",), ("",)):
        callers = [{"name": name, "token_variable": "T"} for name in names]
        with pytest.raises(ConfigError, match="name"):
            parse_settings(GatewaySettings, {"callers": callers}, "gateway")


@pytest.mark.parametrize("token", [" ", "\n", "two words", "tür"])
def test_a_token_is_one_word(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("TOKEN", token)
    with pytest.raises(ConfigError, match=r"one word of ASCII.*'TOKEN'") as caught:
        callers_of(GatewaySettings(token_variable="TOKEN"))
    assert not token.strip() or token not in str(caught.value), "a token is not for logs"


def test_two_callers_have_two_tokens(tokens: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_B", "aaa")
    with pytest.raises(ConfigError, match="two have the same"):
        callers_of(settings({}, {}))


def test_a_rate_allows_a_short_burst_and_then_its_pace() -> None:
    now = [0.0]
    caller = Caller(name="a", token=None, max_requests=9, per_minute=30, clock=lambda: now[0])
    assert [caller.wait_s() for _ in range(6)] == [0, 0, 0, 0, 0, pytest.approx(2.0)]
    now[0] = 1.0
    assert caller.wait_s() == pytest.approx(1.0)
    now[0] = 2.0
    assert (caller.wait_s(), caller.wait_s()) == (0.0, pytest.approx(2.0))
    now[0] = 1000.0
    assert sum(caller.wait_s() == 0.0 for _ in range(9)) == 5, "quiet hours are not saved up"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("[::1]", True),
     ("localhost", True), ("0.0.0.0", False), ("::", False), ("", False),
     ("10.0.0.5", False), ("head.example", False)],
)  # fmt: skip
def test_only_loopback_needs_no_token(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    check_exposure(True, host)
    check_exposure(False, None)
    if loopback:
        check_exposure(False, host)
    else:
        with pytest.raises(ConfigError, match=r"another host than loopback.*token_variable"):
            check_exposure(False, host)


@pytest.mark.parametrize(
    ("http", "args", "prefix", "refused"),
    [
        ({"host": "127.0.0.1"}, {}, "/", False),
        ({"host": "0.0.0.0"}, {}, "/", True),
        ({}, {}, "/", True),  # Serve's own default is every interface
        ({"host": "0.0.0.0"}, {"token_variable": "T"}, "/", False),
        ({"host": "0.0.0.0"}, {"callers": [{"name": "a", "token_variable": "T"}]}, "/", False),
        ({"host": "0.0.0.0"}, {}, None, False),
    ],
)
def test_a_serve_file_with_an_open_gateway_is_refused_before_anything_starts(
    tmp_path: Path, http: dict[str, Any], args: dict[str, Any], prefix: str | None, refused: bool
) -> None:
    app = {
        "name": "gateway",
        "route_prefix": prefix,
        "import_path": "services.gateway:build",
        "args": args,
    }
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump({"http_options": http, "applications": [app]}))
    serve_file = read_serve_file(path)
    if not refused:
        serve_file.check_applications()
        return
    with pytest.raises(ConfigError, match="another host than loopback"):
        serve_file.check_applications()


def test_the_first_callers_variable_is_shown_in_the_example() -> None:
    details = {
        "http_options": {"host": "127.0.0.1", "port": 1, "root_path": ""},
        "proxies": {"n": {"node_ip": "10.0.0.1"}},
        "applications": {
            "gateway": {
                "route_prefix": "/",
                "deployed_app_config": {
                    "import_path": "services.gateway:build",
                    "args": {"callers": [{"name": "a", "token_variable": "TOKEN_A"}]},
                },
            }
        },
    }
    (address,) = addresses_of(details, ["gateway"])
    assert address.token_variable == "TOKEN_A"
    assert "$TOKEN_A" in address.call
