"""The processes of a run, by role: who is to be killed next."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Any

import psutil

from benchmarks.chaos.events import Action

ROLES = {
    "runner": "rollout-",
    "learner": "learner",
    "registry": "weights",
}
"""A run's own, to the beginning of its actors' roles."""
ENGINE = "EngineCore"
"""In the title of vLLM's own process."""
DELAY_S = 4.0
"""How long a process is stopped that goes on again."""


def pids(role: str, run: str) -> list[int]:
    """Of the processes of a role that live, in the order of their names; Ray must be joined."""
    if role in ROLES:
        prefix = f"alphagrpo:{run}:{ROLES[role]}"
        return [record["Pid"] for record in _actors() if record["Name"].startswith(prefix)]
    app, part = role.split()
    replicas = [
        record["Pid"] for record in _actors() if record["Name"].startswith(f"SERVE_REPLICA::{app}#")
    ]
    if part == "replica":
        return replicas
    return [child.pid for pid in replicas for child in _children(pid) if ENGINE in _title(child)]


def _actors() -> list[dict[str, Any]]:
    from ray._private import state

    alive = [record for record in state.actors().values() if record["State"] == "ALIVE"]
    return sorted(alive, key=lambda record: str(record["Name"]))


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return f"{process.name()} {' '.join(process.cmdline())}"
    except psutil.Error:
        return ""


def strike(pid: int, action: Action) -> None:
    """Do it to a process; one that is gone already is gone."""
    with suppress(ProcessLookupError):
        if action == "delay":
            os.kill(pid, signal.SIGSTOP)
            time.sleep(DELAY_S)
            os.kill(pid, signal.SIGCONT)
        elif action == "stop":
            os.kill(pid, signal.SIGSTOP)
        elif action == "terminate":
            os.kill(pid, signal.SIGTERM)
        else:
            os.kill(pid, signal.SIGKILL)
