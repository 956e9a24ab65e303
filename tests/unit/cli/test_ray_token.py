"""Ray's token over a small GCS stand-in: who asks for it, which one is used, what is said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from alphagrpo.cli import prechecks, ray_token
from alphagrpo.cli.ray_session import RaySession, address_to_join, joinable_address
from alphagrpo.cli.ray_token import ensure_token, find_token, use_token_of
from alphagrpo.errors import EnvironmentProblem

GOOD = "a" * 32
VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_USE_TLS")


class FakeGcs(grpc.GenericRpcHandler):
    """Answers the one call, as Ray's GCS does; ``token`` None: asks for none."""

    def __init__(self, token: str | None) -> None:
        self.token = token
        self.server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[self])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def service(self, details: Any) -> Any:
        assert details.method == ray_token.CHECK_ALIVE
        sent = dict(details.invocation_metadata).get("authorization")
        allowed = self.token is None or sent == f"Bearer {self.token}"

        def check_alive(request: bytes, context: grpc.ServicerContext) -> bytes:
            if not allowed:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(check_alive)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whose environment says nothing of Ray; what a test sets is undone after it."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored, whatever the code sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def guarded() -> Iterator[FakeGcs]:
    gcs = FakeGcs(GOOD)
    yield gcs
    gcs.server.stop(None)


@pytest.fixture
def unguarded() -> Iterator[FakeGcs]:
    gcs = FakeGcs(None)
    yield gcs
    gcs.server.stop(None)


def write_token(home: Path, token: str) -> Path:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir(exist_ok=True)
    path.write_text(token)
    path.chmod(0o644)
    return path


def test_a_token_is_made_once_and_nobody_else_can_read_it(home: Path) -> None:
    ensure_token()
    path = home / ".ray" / "auth_token"
    token = path.read_text()
    assert len(token) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    ensure_token()
    assert path.read_text() == token
    assert find_token() == token


def test_a_file_that_ray_left_open_to_all_is_closed_and_an_empty_one_replaced(home: Path) -> None:
    path = write_token(home, GOOD)
    ensure_token()
    assert (path.read_text(), path.stat().st_mode & 0o777) == (GOOD, 0o600)
    write_token(home, "")
    ensure_token()
    assert len(path.read_text()) == 64
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_variable_comes_first_and_the_named_file_second(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_token(home, "in the home")
    named = home / "named"
    named.write_text("in the named file\n")
    assert find_token() == "in the home"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    assert find_token() == "in the named file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "in the variable")
    assert find_token() == "in the variable"


@pytest.mark.parametrize("blank", [" ", "\t\n"])
def test_white_space_is_no_token(
    home: Path, monkeypatch: pytest.MonkeyPatch, guarded: FakeGcs, blank: str
) -> None:
    write_token(home, blank)
    assert find_token() is None, "a file of white space is replaced, as an empty one"
    monkeypatch.setenv("RAY_AUTH_TOKEN", blank)
    for use in (ensure_token, lambda: use_token_of(guarded.address)):
        with pytest.raises(EnvironmentProblem, match=r"more than white space.*RAY_AUTH_TOKEN"):
            use()
    assert (home / ".ray" / "auth_token").read_text() == blank


def test_a_home_that_cannot_be_written_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    with pytest.raises(EnvironmentProblem, match=r"/dev/null/\.ray.*RAY_AUTH_TOKEN_PATH"):
        ensure_token()


def test_a_cluster_that_asks_gets_the_token_that_is_there(home: Path, guarded: FakeGcs) -> None:
    write_token(home, GOOD)
    use_token_of(guarded.address)
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_no_token_another_token_and_another_mode_have_messages_of_their_own(
    home: Path, guarded: FakeGcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EnvironmentProblem, match=r"asks for a token, none is here.*get-auth-token"):
        use_token_of(guarded.address)
    path = write_token(home, "b" * 32)
    with pytest.raises(EnvironmentProblem, match=f"refuses the one in {path}"):
        use_token_of(guarded.address)
    write_token(home, GOOD)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(EnvironmentProblem, match="RAY_AUTH_MODE is 'disabled' here; unset it"):
        use_token_of(guarded.address)


def test_an_open_cluster_is_joined_without_a_token(
    home: Path, unguarded: FakeGcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_token(home, GOOD)
    use_token_of(unguarded.address)
    assert "RAY_AUTH_MODE" not in os.environ
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(EnvironmentProblem, match="asks for no token, RAY_AUTH_MODE is 'token'"):
        use_token_of(unguarded.address)


def test_nobody_there_is_said_at_once(home: Path, guarded: FakeGcs) -> None:
    guarded.server.stop(None).wait()
    with pytest.raises(EnvironmentProblem, match=r"nothing does at 127.*RAY_ADDRESS=local"):
        use_token_of(guarded.address)


@pytest.mark.parametrize(
    "address", ["ray://head:10001", "http://head:8265", "head", ":6379", "head:port"]
)
def test_an_address_of_another_form_is_refused(
    home: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(EnvironmentProblem, match=r"must be host:port.*ray job submit"):
        joinable_address()


def test_which_cluster_is_joined(
    home: Path, guarded: FakeGcs, unguarded: FakeGcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(*addresses: str) -> None:
        monkeypatch.setattr(prechecks, "running_clusters", lambda: addresses)

    write_token(home, GOOD)
    here()
    assert joinable_address() is address_to_join() is None
    here(unguarded.address)
    assert joinable_address() == unguarded.address, "a short command joins what runs here"
    with pytest.raises(EnvironmentProblem, match=f"RAY_ADDRESS={unguarded.address}.*ray stop"):
        address_to_join()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert address_to_join() == unguarded.address
    monkeypatch.setenv("RAY_ADDRESS", guarded.address)
    assert address_to_join() == joinable_address() == guarded.address
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert address_to_join() is joinable_address() is None


def test_auto_needs_one_cluster_here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(prechecks, "running_clusters", lambda: ())
    with pytest.raises(EnvironmentProblem, match="no Ray runs on this machine"):
        joinable_address()
    monkeypatch.setattr(prechecks, "running_clusters", lambda: ("a:1", "b:2"))
    with pytest.raises(EnvironmentProblem, match="a:1, b:2 run here"):
        joinable_address()


def test_the_dashboards_line_says_how_to_get_in(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = RaySession(private=True, dashboard="http://127.0.0.1:8265")
    assert session.dashboard_line == "dashboard: http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert f"the token in {home}/.ray/auth_token" in session.dashboard_line
    monkeypatch.setenv("RAY_AUTH_TOKEN", GOOD)
    assert "the token in RAY_AUTH_TOKEN" in session.dashboard_line
    assert GOOD not in session.dashboard_line
