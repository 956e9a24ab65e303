"""What an application that is being deployed waits for, read from Serve and from the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from alphagrpo.capacity import has_labels

NOT_STARTED = "NOT_STARTED"
"""Status of an application that Serve does not know yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """One application as Serve has it now."""

    name: str
    status: str = NOT_STARTED
    """Serve's word: DEPLOYING, RUNNING, UNHEALTHY, DEPLOY_FAILED, ..."""
    running: int = 0
    """Replicas that serve, of all its deployments."""
    wanted: int = 0
    """Replicas it is to have."""
    waits_for: str = ""
    """What the next replica waits for, in words; empty where none is missing."""


def app_states(names: Iterable[str]) -> dict[str, AppState]:
    """The state of each named application of the connected cluster."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    known: Mapping[str, Any] = client.get_serve_details()["applications"] if client else {}
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return {
        name: state_of(name, known[name], nodes) if name in known else AppState(name=name)
        for name in names
    }


def state_of(name: str, details: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> AppState:
    """The application of Serve's ``details``, on the cluster's ``nodes`` (``ray.nodes()``)."""
    deployments = list(details["deployments"].values())
    running = [_count(deployment, "RUNNING") for deployment in deployments]
    wanted = [int(deployment["target_num_replicas"]) for deployment in deployments]
    reasons = [
        _reason(deployment, nodes)
        for deployment, has, wants in zip(deployments, running, wanted, strict=True)
        if has < wants
    ]
    if not deployments:
        reasons = ["its code to be imported"]
    return AppState(
        name=name,
        status=str(getattr(details["status"], "value", details["status"])),
        running=sum(running),
        wanted=sum(wanted),
        waits_for=reasons[0] if reasons else "",
    )


def _count(deployment: Mapping[str, Any], state: str) -> int:
    return sum(_state(replica) == state for replica in deployment["replicas"])


def _state(replica: Mapping[str, Any]) -> str:
    return str(getattr(replica["state"], "value", replica["state"]))


def _reason(deployment: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> str:
    """Why a deployment has fewer replicas than it is to have."""
    starting = [r for r in deployment["replicas"] if _state(r) == "STARTING"]
    # A replica that has no node yet has no process: nothing of it starts before it has.
    if any(not replica.get("node_id") for replica in starting):
        return _missing(deployment, nodes)
    if starting:
        return "its engine to start"
    return "a replica to be made"


def _missing(deployment: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> str:
    """What a replica needs, and whether any node has it."""
    needs = {key: value for key, value in deployment["required_resources"].items() if value}
    options = (deployment.get("deployment_config") or {}).get("ray_actor_options") or {}
    labels = dict(options.get("label_selector") or {})
    need = ", ".join(f"{_word(key)} {value:g}" for key, value in sorted(needs.items()))
    if labels:
        need += ", " + ", ".join(f"label {k}={v}" for k, v in sorted(labels.items()))
    able = [
        node
        for node in nodes
        if all(node["Resources"].get(key, 0) >= value for key, value in needs.items())
        and has_labels(node.get("Labels") or {}, labels)
    ]
    if able:
        return f"its process, on a node with {need} free"
    return f"resources: it needs {need}; no node has them (ray status shows what there is)"


def _word(resource: str) -> str:
    return f"{resource} (bytes)" if resource == "memory" else resource
