"""Deploying over a fake Serve: what is applied, what is waited for, what an error says."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.serve.schema import ApplicationStatus, ServeApplicationSchema

from alphagrpo.errors import EnvironmentProblem
from services import deploying
from services.deploying import ensure_deployed, redeploy, running_applications, undeploy
from services.serve_config import ServeFile, read_serve_file
from services.waiting import AppState


def serve_file(folder: Path, *names: str) -> ServeFile:
    apps = [{"name": n, "route_prefix": f"/{n}", "import_path": f"{n}:build"} for n in names]
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump({"applications": apps, "http_options": {"port": 8123}}))
    return read_serve_file(path)


class FakeCluster:
    """Serve: applications go through ``steps`` of statuses, one a look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **applications: str) -> None:
        self.applications = dict(applications)
        self.after: dict[str, list[str]] = {}
        self.applied: list[list[str]] = []
        self.deleted: list[str] = []
        self.starts = 0
        self.slow_starts = 0
        self.options: dict[str, Any] = {}
        self.configs = {
            name: {"name": name, "import_path": f"old_{name}:build", "route_prefix": f"/{name}"}
            for name in applications
        }
        monkeypatch.setattr(deploying, "serve", self)
        monkeypatch.setattr(deploying, "_POLL_S", 0.0)
        monkeypatch.setattr(deploying.ray, "is_initialized", lambda: True)
        monkeypatch.setattr("ray.serve._private.api.serve_start", self._start)
        monkeypatch.setattr(deploying, "_deployed_configs", self._configs)
        monkeypatch.setattr(deploying, "app_states", self._states)
        monkeypatch.setattr(deploying, "_log_tail", lambda app: f"last words of {app}")

    def _configs(self) -> dict[str, ServeApplicationSchema]:
        return {n: ServeApplicationSchema.model_validate(c) for n, c in self.configs.items()}

    def _states(self, names: list[str]) -> dict[str, AppState]:
        known = self.status().applications
        return {
            name: AppState(name=name, status=known[name].status.value, waits_for="a GPU")
            if name in known
            else AppState(name=name)
            for name in names
        }

    def _start(self, **options: Any) -> FakeCluster:
        self.starts += 1
        self.options = options
        if self.starts <= self.slow_starts:
            raise TimeoutError("HTTP proxies not available after 60s.")
        return self

    def deploy_apps(self, config: Any) -> None:
        self.applied.append([app.import_path for app in config.applications])
        for app in config.applications:
            self.applications.setdefault(app.name, "DEPLOYING")

    def status(self) -> Any:
        for name, steps in self.after.items():
            if steps and name in self.applications:
                self.applications[name] = steps.pop(0)
        self.applications = {n: s for n, s in self.applications.items() if s != "GONE"}
        detail = SimpleNamespace(
            Judge=SimpleNamespace(status=SimpleNamespace(value="UPDATING"), message=" no GPU ")
        )
        return SimpleNamespace(
            applications={
                name: SimpleNamespace(
                    status=ApplicationStatus(state), message=" why ", deployments=vars(detail)
                )
                for name, state in self.applications.items()
            }
        )

    def delete(self, name: str, _blocking: bool) -> None:
        assert not _blocking
        self.deleted.append(name)
        self.after[name] = ["DELETING", "DELETING", "GONE"]


def test_what_runs_is_left_alone_and_what_lacks_is_deployed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = FakeCluster(monkeypatch, a="RUNNING", other="RUNNING")
    cluster.after = {"b": ["DEPLOYING", "RUNNING"]}
    updates: list[dict[str, str]] = []
    report = ensure_deployed(
        serve_file(tmp_path, "a", "b"),
        progress=lambda states: updates.append({n: s.status for n, s in states.items()}),
    )
    assert (report.started, report.attached) == (("b",), ("a",))
    # Serve deletes what a config leaves out: the others' own configs are applied again.
    assert cluster.applied == [["b:build", "old_a:build", "old_other:build"]]
    assert cluster.options["http_options"]["port"] == 8123
    assert updates[0]["b"] == "DEPLOYING"
    assert updates[-1] == {"a": "RUNNING", "b": "RUNNING"}
    assert all(one != two for one, two in pairwise(updates)), "changes alone"


def test_nothing_is_applied_where_all_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = FakeCluster(monkeypatch, a="RUNNING")
    report = ensure_deployed(serve_file(tmp_path, "a"))
    assert report.attached == ("a",)
    assert cluster.applied == []


def test_a_failed_application_is_deployed_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = FakeCluster(monkeypatch, a="DEPLOY_FAILED")
    assert running_applications() == set()
    cluster.after = {"a": ["DEPLOY_FAILED", "RUNNING"]}
    assert ensure_deployed(serve_file(tmp_path, "a")).started == ("a",)
    assert cluster.applied == [["a:build"]]


def test_redeploying_takes_the_new_file_and_keeps_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = FakeCluster(monkeypatch, a="RUNNING", other="RUNNING")
    redeploy(serve_file(tmp_path, "a"))
    assert cluster.applied == [["a:build", "old_other:build"]]


@pytest.mark.parametrize(
    ("state", "limit_s", "words"),
    [("DEPLOY_FAILED", 60.0, "did not start: why"), ("DEPLOYING", -1.0, "is late: why")],
)
def test_an_error_holds_the_deployments_words_and_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, limit_s: float, words: str
) -> None:
    cluster = FakeCluster(monkeypatch)
    cluster.after = {"a": [state] * 9}
    with pytest.raises(EnvironmentProblem) as caught:
        ensure_deployed(serve_file(tmp_path, "a"), timeout_s=limit_s)
    parts = (
        f"'a' must be running and {words}",
        "it waits for a GPU",
        "Judge: UPDATING no GPU",
        "last words of a",
    )
    for part in parts:
        assert part in str(caught.value)


def test_a_sign_of_life_comes_while_serve_itself_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = FakeCluster(monkeypatch)
    cluster.after = {"a": ["RUNNING"]}
    heard = threading.Event()
    said: list[AppState] = []

    def progress(states: Mapping[str, AppState]) -> None:
        said.append(states["a"])
        heard.set()

    def start(**_: Any) -> FakeCluster:
        assert heard.wait(10), "silence while Serve starts"
        return cluster

    monkeypatch.setattr(deploying, "SIGN_OF_LIFE_S", 0.01)
    monkeypatch.setattr("ray.serve._private.api.serve_start", start)
    ensure_deployed(serve_file(tmp_path, "a"), progress=progress)
    assert said[0] == AppState(name="a", waits_for="Serve to start")
    assert said[-1].status == "RUNNING"


def test_a_sign_of_life_comes_while_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = FakeCluster(monkeypatch)
    cluster.after = {"a": ["DEPLOYING"] * 5 + ["RUNNING"]}
    seen: list[str] = []
    monkeypatch.setattr(deploying, "SIGN_OF_LIFE_S", 0.0)
    ensure_deployed(
        serve_file(tmp_path, "a"), progress=lambda states: seen.append(states["a"].status)
    )
    assert seen.count("DEPLOYING") > 1
    assert seen[-1] == "RUNNING"


def test_a_proxy_slower_than_rays_own_limit_is_not_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = FakeCluster(monkeypatch)
    cluster.after, cluster.slow_starts = {"a": ["RUNNING"]}, 1
    ensure_deployed(serve_file(tmp_path, "a"))
    assert cluster.starts == 2
    assert cluster.applied == [["a:build"]]


def test_only_what_is_there_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(monkeypatch, a="RUNNING", b="RUNNING")
    undeploy(["b", "gone"])
    assert cluster.deleted == ["b"]
    assert set(cluster.applications) == {"a"}


def test_deploying_needs_a_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakeCluster(monkeypatch)
    monkeypatch.setattr(deploying.ray, "is_initialized", lambda: False)
    with pytest.raises(EnvironmentProblem, match=r"call ray\.init"):
        ensure_deployed(serve_file(tmp_path, "a"))
