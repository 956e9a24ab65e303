"""Placement arithmetic: which processes a run starts and what they reserve of the cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alphagrpo.capacity import Role, run_roles
from alphagrpo.config import RunConfig

if TYPE_CHECKING:
    from services.serve_config import ServeFile

DEFAULT_REPLICA_CPUS = 1.0
"""What Serve reserves for a replica that does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """All roles of a run."""

    roles: tuple[Role, ...]

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
    def replicas(self) -> tuple[Role, ...]:
        """The roles that are Serve deployments."""
        return tuple(role for role in self.roles if role.name.startswith("serve "))


def placement_of(config: RunConfig, serve_file: ServeFile | None) -> Placement:
    """What the run reserves: its own actors, and the deployments of the Serve file it deploys."""
    roles = list(run_roles(config))
    if serve_file is not None:
        roles += serve_roles(serve_file)
    return Placement(roles=tuple(roles))


def serve_roles(serve_file: ServeFile) -> list[Role]:
    """One role per deployment that the Serve file names; others start with one replica each."""
    roles: list[Role] = []
    for app in serve_file.raw["applications"]:
        deployments = app.get("deployments") or [{"name": "default"}]
        roles += [_deployment_role(str(app.get("name", "default")), d) for d in deployments]
    return roles


def _deployment_role(app: str, deployment: dict[str, Any]) -> Role:
    scaling = deployment.get("autoscaling_config") or {}
    num_replicas = deployment.get("num_replicas")
    if isinstance(num_replicas, int):
        count = largest = num_replicas
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
        selector=options.get("label_selector") or {},
    )
