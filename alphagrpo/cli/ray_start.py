"""How a private Ray cluster is started, so that a slow or busy machine has the time it needs.

Nothing here imports ray before it is called: Ray reads its environment when it is imported.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

PATIENCE: dict[str, str] = {
    # The driver waits so long for its node to appear in the GCS (10 s; the 30 s of Ray's error "the
    # current node timed out during startup" are looked at only between two such waits).
    "RAY_raylet_start_wait_time_s": "120",
    # For the GCS's port file, and for the first connection to it (30 s and 20 tries).
    "RAY_gcs_server_port_wait_time_s": "120",
    # For the GCS to answer a process that connects to it (5 s).
    "RAY_gcs_rpc_server_connect_timeout_s": "60",
    # For the runtime environment agent to answer; the raylet exits where it does not (30 s).
    "RAY_agent_register_timeout_ms": "300000",
    # For a worker that was started; one that is late is killed and started again, which keeps a
    # busy machine busy (60 s).
    "RAY_worker_register_timeout_seconds": "300",
    # For the dashboard, before anything else of the node is started (60 s).
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    # For Serve's HTTP proxy to be ready, and to answer a health check (5 s and 10 s); one that is
    # late is replaced.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}
"""Environment of a private cluster: what Ray 2.60 waits for, each with its default in brackets."""
LOOPBACK = "127.0.0.1"
AT_HOME: dict[str, str] = {
    # Ray's own switch, for Windows and macOS: a node's address is 127.0.0.1. Without it ray.init
    # takes the machine's outside address even where it is given 127.0.0.1, and its servers then
    # listen on every interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Of vLLM's engines, and of the connections that torch.distributed makes in them.
    "VLLM_HOST_IP": LOOPBACK,
    "GLOO_SOCKET_IFNAME": "lo",
}
"""Environment of processes that talk to one another on this machine only."""
PORTS = range(20_000, 30_000)
"""Below the ephemeral ports, so that no connection takes one before its agent binds it."""


def set_environment(*, private: bool) -> None:
    """Decide what Ray would otherwise decide by what it happens to find; before ray is imported.

    What the user has set stays as it is.
    """
    if private:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The services use no hub; a look-up would only wait for a network that is not there.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Ray's own idle workers and ours share the cores: one thread each unless an actor says more.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def stay_at_home() -> None:
    """Have Ray's processes that this one starts listen on loopback, or join one that does."""
    home = socket.if_nameindex()
    for name, value in AT_HOME.items():
        if name != "GLOO_SOCKET_IFNAME" or value in {interface for _, interface in home}:
            os.environ.setdefault(name, value)
    if constants := sys.modules.get("ray._private.ray_constants"):
        constants.__dict__["ENABLE_RAY_CLUSTER"] = False  # read when ray was imported


def start_ray(**options: Any) -> Any:
    """``ray.init`` of a cluster of our own, with its ``options``; returns Ray's context.

    It listens on loopback, in process groups of its own.
    """
    stay_at_home()
    import ray

    ports = free_ports(4)
    with known_agent_ports(*ports[:3]), own_process_groups(), kept_sigterm():
        return ray.init(_metrics_export_port=ports[3], **options)


@contextmanager
def own_process_groups() -> Iterator[None]:
    """Inside the block each process of Ray's gets a process group of its own.

    A signal to the group of this process (Ctrl-C, `timeout`, a shell's `kill %1`) then leaves Ray
    alone, so that a step can end. Ray blocks SIGINT in what it starts, SIGTERM it does not. They
    end with this process all the same: the kernel tells them of its death.
    """
    services: Any = importlib.import_module("ray._private.services")
    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = popen


@contextmanager
def kept_sigterm() -> Iterator[None]:
    """Around ``ray.init``: where SIGTERM has a handler, it has it inside the block and afterwards.

    Ray installs two: one in Python that exits with code 15 wherever the signal comes, and one in
    C++, unseen by Python, that prints a stack and aborts.
    """
    utils: Any = importlib.import_module("ray._private.utils")
    install, handler = utils.set_sigterm_handler, signal.getsignal(signal.SIGTERM)
    is_main = threading.current_thread() is threading.main_thread()
    is_ours = is_main and handler not in (signal.SIG_DFL, None)
    if is_ours:
        utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = install
        if is_ours:
            signal.signal(signal.SIGTERM, handler)


def free_ports(number: int) -> list[int]:
    """Different ports of this machine that nothing listens on now."""
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(ports) == number:
            break
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        ports.append(port)
    return ports


@contextmanager
def known_agent_ports(grpc: int, http: int, runtime_env: int) -> Iterator[None]:
    """Inside the block a raylet is told its agents' ports instead of waiting for their files.

    Ray 2.60 gives every agent 15 s to import and to write its port, in C++ and without a setting,
    and aborts the raylet after that (ray-project/ray#65983); a machine with more work than cores
    needs more. With ports that are known the raylet starts at once and finds the agents when they
    are there. ``ray.init`` has no argument for three of the ports, and Ray passes the HTTP port to
    the agent only: hence its parameters and the raylet's command line are completed here.
    """
    parameter: Any = importlib.import_module("ray._private.parameter")
    services: Any = importlib.import_module("ray._private.services")
    params, start = parameter.RayParams, services.start_ray_process
    parameter.RayParams = partial(
        params,
        metrics_agent_port=grpc,
        dashboard_agent_listen_port=http,
        runtime_env_agent_port=runtime_env,
    )
    services.start_ray_process = _with_raylet_flag(start, f"--dashboard_agent_listen_port={http}")
    try:
        yield
    finally:
        parameter.RayParams, services.start_ray_process = params, start


def _with_raylet_flag(start: Callable[..., Any], flag: str) -> Callable[..., Any]:
    """Ray's ``start_ray_process``, which starts the raylet with one flag more."""
    from ray._private.ray_constants import PROCESS_TYPE_RAYLET

    def start_process(command: list[str], process_type: str, *args: Any, **options: Any) -> Any:
        extra = [flag] if process_type == PROCESS_TYPE_RAYLET else []
        return start([*command, *extra], process_type, *args, **options)

    return start_process
