"""Starting a private Ray: its environment, its agents' ports, and what the user's settings win."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest

from alphagrpo.cli import ray_session as sessions
from alphagrpo.cli.ray_session import check_ports, ray_session
from alphagrpo.cli.ray_start import (
    AT_HOME,
    PATIENCE,
    PORTS,
    free_ports,
    set_environment,
    start_ray,
)
from alphagrpo.errors import EnvironmentProblem


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An empty environment in place of this process's."""
    variables: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", variables)
    return variables


def test_a_private_cluster_gets_time_a_joined_one_keeps_its_own(
    environment: dict[str, str],
) -> None:
    set_environment(private=False)
    assert not set(PATIENCE) & set(environment)
    assert "RAY_AUTH_MODE" not in environment
    assert environment["OMP_NUM_THREADS"] == "1"
    set_environment(private=True)
    assert PATIENCE.items() <= environment.items()
    assert environment["RAY_AUTH_MODE"] == "token"


def test_what_the_user_has_set_stays(environment: dict[str, str]) -> None:
    own = {name: "7" for name in (*PATIENCE, "RAY_AUTH_MODE", "OMP_NUM_THREADS")}
    environment.update(own)
    set_environment(private=True)
    assert own.items() <= environment.items()


def test_ray_takes_the_environment_that_tests_and_commands_set() -> None:
    code = """
import sys
from alphagrpo.cli.ray_start import set_environment
assert "ray" not in sys.modules
set_environment(private=True)
from ray._private import ray_constants
from ray._raylet import Config
from ray.serve._private import constants
print(ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S, constants.PROXY_READY_CHECK_TIMEOUT_S,
      constants.PROXY_HEALTH_CHECK_TIMEOUT_S)
"""
    clean = {name: value for name, value in os.environ.items() if name not in PATIENCE}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == ["300", "60.0", "60.0"]


def test_ports_are_free_different_and_below_the_ephemeral_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ports = free_ports(4)
    assert len(set(ports)) == 4
    assert all(port in PORTS for port in ports)
    with socket.socket() as server:
        server.bind(("", ports[0]))
        monkeypatch.setattr("alphagrpo.cli.ray_start.PORTS", ports[:2])
        assert free_ports(1) == [ports[1]]


class FakeRayInit:
    """Does with parameters and processes what ``ray.init`` does, and starts nothing."""

    def __init__(self, fail: bool = False) -> None:
        self.fail = fail
        self.options: dict[str, Any] = {}
        self.commands: dict[str, list[str]] = {}

    def __call__(self, **options: Any) -> str:
        from ray._private import parameter, services

        self.options = options
        self.params = parameter.RayParams(num_cpus=options["num_cpus"])
        for process_type in ("raylet", "gcs_server"):
            services.start_ray_process([process_type, "--flag"], process_type, fate_share=True)
        if self.fail:
            raise RuntimeError("no node")
        return "context"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> FakeRayInit:
    import ray
    from ray._private import ray_constants, services

    fake = FakeRayInit()

    def start_ray_process(command: list[str], process_type: str, *, fate_share: bool) -> None:
        assert fate_share
        fake.commands[process_type] = command

    monkeypatch.setattr(ray, "init", fake)
    monkeypatch.setattr(services, "start_ray_process", start_ray_process)
    # What start_ray sets for good is set back.
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    for name in AT_HOME:
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    return fake


def test_ray_starts_at_home_in_groups_of_its_own_and_keeps_our_handler(
    started: FakeRayInit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import services, utils

    before = services.ConsolePopen, utils.set_sigterm_handler
    mine = signal.signal(signal.SIGTERM, lambda *_: None)
    seen = {}

    def look(**_: Any) -> str:
        with services.ConsolePopen([sys.executable, "-c", "pass"]) as child:
            seen["group"] = os.getpgid(child.pid) == child.pid
        handler = signal.getsignal(signal.SIGTERM)
        utils.set_sigterm_handler(lambda *_: None)
        seen["kept"] = signal.getsignal(signal.SIGTERM) is handler
        seen["address"] = services.get_node_ip_address()
        return "context"

    monkeypatch.setattr("ray.init", look)
    try:
        start_ray(num_cpus=1)
    finally:
        signal.signal(signal.SIGTERM, mine)
    assert seen == {"group": True, "kept": True, "address": "127.0.0.1"}
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0", "what it starts does so too"
    assert (services.ConsolePopen, utils.set_sigterm_handler) == before


def test_raylet_and_agents_are_told_the_same_ports(started: FakeRayInit) -> None:
    assert start_ray(num_cpus=3) == "context"
    params = started.params
    assert params.num_cpus == 3
    ports = [
        params.metrics_agent_port,
        params.dashboard_agent_listen_port,
        params.runtime_env_agent_port,
        started.options["_metrics_export_port"],
    ]
    assert len(set(ports)) == 4
    assert all(port in PORTS for port in ports)
    # Ray's own code gives this port to the agent alone: without the flag the raylet waits for it.
    flag = f"--dashboard_agent_listen_port={params.dashboard_agent_listen_port}"
    assert started.commands == {"raylet": ["raylet", "--flag", flag], "gcs_server": [
        "gcs_server", "--flag"
    ]}  # fmt: skip


@pytest.mark.parametrize("fail", [False, True])
def test_ray_is_left_as_it_was(started: FakeRayInit, fail: bool) -> None:
    from ray._private import parameter, services

    before = parameter.RayParams, services.start_ray_process
    started.fail = fail
    if fail:
        with pytest.raises(RuntimeError, match="no node"):
            start_ray(num_cpus=1)
    else:
        start_ray(num_cpus=1)
    assert (parameter.RayParams, services.start_ray_process) == before


class Context:
    dashboard_url = "127.0.0.1:8265"


class FakeCluster:
    """Ray as a session sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, running: bool = False) -> None:
        import ray

        self.joined: list[dict[str, Any]] = []
        self.started: list[dict[str, Any]] = []
        self.shutdowns = 0
        self.address_seen: str | None = None
        monkeypatch.setattr(ray, "is_initialized", lambda: running)
        monkeypatch.setattr(ray, "init", self._join)
        monkeypatch.setattr(ray, "shutdown", self._shutdown)
        monkeypatch.setattr(sessions, "start_ray", self._start)

    def _join(self, **options: Any) -> Context:
        self.joined.append(options)
        if options["address"] == "gone:1":
            raise ConnectionError("refused")
        return Context()

    def _start(self, **options: Any) -> Context:
        self.started.append(options)
        self.address_seen = os.environ.get("RAY_ADDRESS")
        return Context()

    def _shutdown(self) -> None:
        self.shutdowns += 1


def test_a_private_session_listens_at_home_and_ends_what_it_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = FakeCluster(monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with ray_session(None, num_cpus=5, store_bytes=4 << 30) as session:
        assert (session.private, session.dashboard) == (True, "http://127.0.0.1:8265")
        assert cluster.shutdowns == 0
    (options,) = cluster.started
    assert options["num_cpus"] == 5
    assert options["object_store_memory"] == 4 << 30, "what the run's plan says"
    assert options["labels"] == {"mesh.pool": "all"}, "a machine that is a whole cluster"
    assert options["address"] == "local"
    assert options["dashboard_host"] == "127.0.0.1"
    assert options["namespace"] == "alphagrpo"
    assert cluster.address_seen is None, "its processes would take RAY_ADDRESS for an address"
    assert cluster.shutdowns == 1
    assert not cluster.joined


def test_a_joined_session_takes_the_address_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = FakeCluster(monkeypatch)

    def work() -> None:
        with ray_session("head:6379", num_cpus=5) as session:
            assert not session.private
            raise KeyError

    with pytest.raises(KeyError):
        work()
    (options,) = cluster.joined
    assert options["address"] == "head:6379"
    assert "num_cpus" not in options
    assert cluster.shutdowns == 1, "also where the block fails"
    with pytest.raises(EnvironmentProblem, match=r"gone:1 answers.*\(refused\)"):
        with ray_session("gone:1", num_cpus=1):
            pass


def test_a_process_that_is_connected_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(monkeypatch, running=True)
    with ray_session(None, num_cpus=5) as session:
        assert not session.private
    assert not cluster.started
    assert cluster.shutdowns == 0


def test_serves_port_must_be_free(monkeypatch: pytest.MonkeyPatch) -> None:
    ports: list[int] = []
    monkeypatch.setattr(sessions, "check_port", lambda port, what: ports.append(port))
    check_ports(8123)
    assert ports == [8123]
