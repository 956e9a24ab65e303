"""Placement arithmetic: which processes a run starts and what they reserve of the cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alphagrpo.config import RunConfig
from alphagrpo.errors import ConfigError

DEFAULT_REPLICA_CPUS = 1.0
"""What Serve reserves for a replica that does not say."""
SERVE_HTTP_PORT = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Processes of one kind."""

    name: str
    count: int
    """How many run at the start; a Serve deployment may scale up to :attr:`largest`."""
    cpus: float
    gpus: float
    largest: int = 0

    @property
    def total_cpus(self) -> float:
        """Logical CPUs of all of them at the start."""
        return self.count * self.cpus

    @property
    def total_gpus(self) -> float:
        """GPUs of all of them at the start."""
        return self.count * self.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """All roles of a run, and what Serve was told."""

    roles: tuple[Role, ...]
    serve_found: bool
    """False where the Serve file of the config does not exist."""
    http_port: int | None
    """The port Serve will listen on, if the run deploys Serve itself."""

    @property
    def cpus(self) -> float:
        """Logical CPUs of the whole mesh at the start."""
        return sum(role.total_cpus for role in self.roles)

    @property
    def gpus(self) -> float:
        """GPUs of the whole mesh at the start."""
        return sum(role.total_gpus for role in self.roles)

    @property
    def whole_cpus(self) -> int:
        """Logical CPUs a private local cluster is given: every role fits, one to spare."""
        return max(2, math.ceil(self.cpus) + 1)

    @property
    def num_replicas(self) -> int:
        """Serve replicas at the start."""
        return sum(role.count for role in self.roles if role.name.startswith("serve "))


def placement_of(config: RunConfig) -> Placement:
    """What the run reserves: runners, learner, and the Serve file's deployments.

    Raises ConfigError where the Serve file exists and is not what Serve takes.
    """
    rollout = config.rollout
    roles = [
        Role(
            name="rollout runner",
            count=rollout.num_runners,
            cpus=rollout.cpus_per_runner,
            gpus=rollout.gpus_per_runner,
        ),
        Role(name="learner", count=1, cpus=config.learner.cpus, gpus=config.learner.gpus),
    ]
    path = config.services.serve_config
    found = path is not None and path.is_file()
    raw = read_serve_config(path) if path is not None and found else {}
    roles += serve_roles(raw)
    port = int((raw.get("http_options") or {}).get("port", SERVE_HTTP_PORT)) if found else None
    return Placement(roles=tuple(roles), serve_found=found, http_port=port)


def read_serve_config(path: Path) -> dict[str, Any]:
    """A Serve config file (what ``serve deploy`` takes) as a mapping."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"the Serve config must exist, {path} does not; check services.serve_config"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"a Serve config must be YAML in UTF-8, {path} is not: {error}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("applications"), list):
        raise ConfigError(
            f"a Serve config must list its applications, {path} does not; see deploy/serve"
        )
    return raw


def application_names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a Serve config's applications."""
    return tuple(str(app.get("name", "default")) for app in raw["applications"])


def serve_roles(raw: dict[str, Any]) -> list[Role]:
    """One role per deployment that the Serve config names; others start with one replica each."""
    roles = []
    for app in raw.get("applications", []):
        deployments = app.get("deployments") or [{"name": "default"}]
        roles += [_deployment_role(str(app.get("name", "default")), d) for d in deployments]
    return roles


def _deployment_role(app: str, deployment: dict[str, Any]) -> Role:
    scaling = deployment.get("autoscaling_config") or {}
    fixed = deployment.get("num_replicas")
    if isinstance(fixed, int):
        count = largest = fixed
    else:
        count = int(scaling.get("initial_replicas") or scaling.get("min_replicas", 1))
        largest = int(scaling.get("max_replicas", count))
    options = deployment.get("ray_actor_options") or {}
    return Role(
        name=f"serve {app}/{deployment.get('name', 'default')}",
        count=count,
        cpus=float(options.get("num_cpus", DEFAULT_REPLICA_CPUS)),
        gpus=float(options.get("num_gpus", 0.0)),
        largest=largest,
    )
