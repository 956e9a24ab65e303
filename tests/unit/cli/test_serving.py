"""Serving commands over a fake Ray and Serve: who is asked for what, in which order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from alphagrpo.cli import prechecks, ray_session
from alphagrpo.cli import serve as serve_command
from alphagrpo.cli import serving as serving_module
from alphagrpo.cli.console import Narrator
from alphagrpo.cli.main import main
from alphagrpo.cli.ray_session import RaySession
from alphagrpo.cli.serving import deployed, serving
from alphagrpo.errors import EnvironmentProblem
from services import addresses as services_addresses
from services import deploying
from services.serve_config import read_serve_file
from services.waiting import AppState


class FakeServe:
    """Records what is deployed and deleted; ``running`` applications are there already."""

    def __init__(self, running: tuple[str, ...] = (), fail: bool = False) -> None:
        self.running, self.fail = set(running), fail
        self.events: list[tuple[str, tuple[str, ...]]] = []

    def ensure_deployed(self, serve_file: Any, *, progress: Any = None) -> None:
        self.events.append(("deploy", serve_file.applications))
        if self.fail:
            raise EnvironmentProblem("it is late; wait")
        if progress:
            for status, running in (("DEPLOYING", 0), ("DEPLOYING", 0), ("RUNNING", 1)):
                state = AppState(
                    name="any",
                    status=status,
                    running=running,
                    wanted=1,
                    waits_for="" if running else "its engine to start",
                )
                progress(dict.fromkeys(serve_file.applications, state))

    def undeploy(self, names: Any) -> None:
        self.events.append(("delete", tuple(names)))

    def running_applications(self) -> set[str]:
        return self.running


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeServe:
    serve = FakeServe()
    for name in ("ensure_deployed", "undeploy", "running_applications"):
        monkeypatch.setattr(deploying, name, getattr(serve, name))
    return serve


class FakeSessions:
    def __init__(self, private: bool = True) -> None:
        self.private = private
        self.calls: list[tuple[str | None, int]] = []

    @contextmanager
    def __call__(self, address: str | None, *, num_cpus: int) -> Iterator[RaySession]:
        self.calls.append((address, num_cpus))
        yield RaySession(private=self.private, dashboard="http://d")


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Applications whose addresses were told; there is no Serve to ask."""
    names: list[str] = []
    monkeypatch.setattr(services_addresses, "addresses", lambda asked: names.extend(asked) or [])
    return names


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> FakeSessions:
    sessions = FakeSessions()
    monkeypatch.setattr(serving_module, "ray_session", sessions)
    monkeypatch.setattr(serve_command, "ray_session", sessions)
    monkeypatch.setattr(prechecks, "running_clusters", lambda: ())
    monkeypatch.setattr(ray_session, "use_token_of", lambda address: None)
    monkeypatch.setattr(serve_command, "check_ports", lambda port: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return sessions


@pytest.fixture
def path(tmp_path: Path) -> Path:
    apps = [
        {
            "name": name,
            "route_prefix": f"/{name}",
            "import_path": "theirs:build",
            "deployments": [{"name": "D", "ray_actor_options": {"num_cpus": cpus}}],
        }
        for name, cpus in (("decomposer", 2), ("verifier", 3))
    ]
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump({"applications": apps, "http_options": {"port": 8123}}))
    return path


def test_a_short_command_deploys_what_it_needs_in_a_cluster_that_fits(
    path: Path, fake: FakeServe, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(path, Narrator(), ["verifier"]):
        assert fake.events == [("deploy", ("verifier",))]
    assert sessions.calls == [(None, 5)], "three CPUs and two to spare"
    assert fake.events == [("deploy", ("verifier",))], "a private cluster ends with all in it"
    lines = capsys.readouterr().out.splitlines()
    states = [line.split("verifier: ")[1] for line in lines if "verifier: " in line]
    waiting = "deploying, 0 of 1 replicas, waits for its engine to start (0 s)"
    assert states[:3] == [waiting, waiting, "running, 1 of 1 replicas"]


def test_in_a_joined_cluster_only_what_was_deployed_here_is_deleted(
    path: Path, fake: FakeServe, sessions: FakeSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions.private = False
    fake.running = {"decomposer"}
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with serving(path, Narrator()):
        assert fake.events == [("deploy", ("decomposer", "verifier"))]
    assert sessions.calls[0][0] == "head:6379"
    assert fake.events[1:] == [("delete", ("verifier",))]


@pytest.mark.parametrize("late", [False, True])
def test_what_was_deployed_goes_also_after_a_failure(
    path: Path, fake: FakeServe, late: bool
) -> None:
    fake.fail = late
    session = RaySession(private=False, dashboard="")

    def work() -> None:
        with deployed(read_serve_file(path), Narrator(), session):
            raise KeyError

    with pytest.raises(EnvironmentProblem if late else KeyError):
        work()
    assert fake.events[-1] == ("delete", ("decomposer", "verifier"))


def test_serve_into_a_running_cluster_deploys_and_goes(
    path: Path,
    fake: FakeServe,
    sessions: FakeSessions,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions.private = False
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert main(["serve", str(path)]) == 0
    assert fake.events == [("deploy", ("decomposer", "verifier"))]
    assert told == ["decomposer", "verifier"]


def test_serve_alone_checks_the_files_port_and_waits_for_the_end(
    path: Path,
    fake: FakeServe,
    sessions: FakeSessions,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[Any] = []
    monkeypatch.setattr(serve_command, "check_ports", order.append)
    monkeypatch.setattr(
        serve_command, "_wait_for_the_end", lambda session, narrator: order.append(fake.events[:])
    )
    assert main(["serve", str(path)]) == 0
    assert order == [8123, [("deploy", ("decomposer", "verifier"))]]
    assert told == ["decomposer", "verifier"]
    assert sessions.calls == [(None, 7)]


def test_a_wrong_file_is_refused_before_a_session_begins(
    path: Path, fake: FakeServe, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text(path.read_text().replace("num_cpus", "cpus"))
    assert main(["serve", str(path)]) == 2
    assert "ray_actor_options.cpus" in capsys.readouterr().err
    assert sessions.calls == []


def fake_status(monkeypatch: pytest.MonkeyPatch, *apps: str) -> None:
    from ray import serve

    deployment = SimpleNamespace(replica_states={"RUNNING": 2})
    status = SimpleNamespace(
        status=SimpleNamespace(value="RUNNING"), deployments={"Judge": deployment}
    )
    applications = dict.fromkeys(apps, status)
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=applications))


def test_status_lists_deployments(
    sessions: FakeSessions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    fake_status(monkeypatch, "verifier")
    assert main(["serve", "--status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "application": "verifier",
            "status": "RUNNING",
            "deployment": "Judge",
            "replicas": "{'RUNNING': 2}",
        }
    ]
    assert sessions.calls == [("head:6379", 0)]


@pytest.mark.parametrize(
    ("named", "deleted", "told"),
    [(True, ("decomposer", "verifier"), "verifier"), (False, ("other", "verifier"), "other, ver")],
)
def test_down_deletes_the_files_applications_or_all(
    path: Path,
    fake: FakeServe,
    sessions: FakeSessions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    named: bool,
    deleted: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    fake_status(monkeypatch, "other", "verifier")
    assert main(["serve", *([str(path)] if named else []), "--down"]) == 0
    assert fake.events == [("delete", deleted)]
    assert f"deleted: {told}" in capsys.readouterr().out


def test_status_needs_a_cluster(sessions: FakeSessions, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--status"]) == 2
    assert "no Ray cluster runs here" in capsys.readouterr().err
