"""Whether a cluster has room for a run: roles against nodes, as plain records.

Only what cannot be is said to be so. The conditions looked at are necessary ones, counted on what
nodes hold in all, not on what is free of it: a cluster that is full now has room later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from alphagrpo.config import RunConfig

RUNNER, LEARNER, REGISTRY = "rollout runner", "learner", "weight registry"
REMEDIES = {
    RUNNER: "lower rollout.num_runners, rollout.cpus_per_runner or rollout.gpus_per_runner, change "
    "placement.rollout",
    LEARNER: "lower learner.ranks, learner.cpus or learner.gpus, change placement.learner",
    REGISTRY: "change placement.weights, which is placement.learner where nothing is said",
}
"""What of the run config a role's needs come from."""
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Processes of one kind."""

    name: str
    count: int
    """How many run at the start; a Serve deployment may scale up to :attr:`largest`."""
    cpus: float
    gpus: float
    largest: int = 0
    selector: Mapping[str, str] = field(default_factory=dict)
    """Labels that a node must have (:data:`alphagrpo.config.placement.LabelSelector`)."""

    @property
    def total_cpus(self) -> float:
        """Logical CPUs of all of them at the start."""
        return self.count * self.cpus

    @property
    def total_gpus(self) -> float:
        """GPUs of all of them at the start."""
        return self.count * self.gpus

    @property
    def where(self) -> str:
        """The selector for people; empty where any node will do."""
        return ", ".join(f"{key}: {condition}" for key, condition in self.selector.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of a cluster, or a kind of node of which it may have :attr:`count`."""

    cpus: float
    gpus: float
    labels: Mapping[str, str] | None = field(default_factory=dict)
    """None where they are not known: it may then be any role's."""
    count: float = 1

    def admits(self, role: Role) -> bool:
        """Whether its labels are those the role's processes need."""
        return self.labels is None or has_labels(self.labels, role.selector)

    def room(self, role: Role) -> float:
        """How many of the role's processes such nodes take; without bound where they need none."""
        if not self.admits(role) or self.count <= 0:
            return 0
        pairs = ((self.cpus, role.cpus), (self.gpus, role.gpus))
        each = min((math.floor(has / need + _ROUNDING) for has, need in pairs if need > 0),
                   default=math.inf)  # fmt: skip
        return _times(self.count, each)


def run_roles(config: RunConfig) -> tuple[Role, ...]:
    """The processes a run starts itself: runners, the learner's ranks where they have processes
    of their own, and weight registry.
    """
    rollout, learner, placement = config.rollout, config.learner, config.placement
    runners = Role(
        name=RUNNER,
        count=rollout.num_runners,
        cpus=rollout.cpus_per_runner,
        gpus=rollout.gpus_per_runner,
        selector=placement.rollout,
    )
    ranks = Role(
        name=LEARNER,
        count=learner.ranks,
        cpus=learner.cpus,
        gpus=learner.gpus,
        selector=placement.learner,
    )
    registry = Role(name=REGISTRY, count=1, cpus=0, gpus=0, selector=placement.registry)
    return (runners, registry) if learner.on_runners else (runners, ranks, registry)


def lack(roles: Sequence[Role], nodes: Sequence[Node], addable: Sequence[Node] = ()) -> str | None:
    """Why the roles can never all run on ``nodes`` and ``addable``; None where they may.

    Each role must fit by itself, process by process; and whichever of them are taken together, the
    nodes that admit any of these must hold what they ask for in all.
    """
    for role in roles:
        room = sum(node.room(role) for node in (*nodes, *addable))
        if room < role.count:
            return (
                f"every process of a run needs a node with room for it, the cluster has room for "
                f"{room:g} of {counted(role, role.count)} ({_each(role)}): {_has(role, nodes)}, "
                f"{_can_add(role, addable)}; {_remedy(role)}, or start such nodes"
            )
    asking = [role for role in roles if role.cpus or role.gpus]
    for size in range(2, len(asking) + 1):
        for together in combinations(asking, size):
            if problem := _lack_together(together, nodes, addable):
                return problem
    return None


def _lack_together(
    roles: Sequence[Role], nodes: Sequence[Node], addable: Sequence[Node]
) -> str | None:
    has, can = _amounts(roles, nodes), _amounts(roles, addable)
    asked = sum(role.total_cpus for role in roles), sum(role.total_gpus for role in roles)
    if all(a <= h + c + _ROUNDING for a, h, c in zip(asked, has, can, strict=True)):
        return None
    names = " and ".join(counted(role, role.count) for role in roles)
    return (
        f"a cluster must hold what a run's processes ask for together, {names} ask for "
        f"{amount(*asked)}, the nodes they may use have {amount(*has)} and {amount(*can)} can be "
        f"added; {'; '.join(map(_remedy, roles))}; or start "
        "more nodes"
    )


def waiting_for(role: Role, number: int, free: Sequence[Node]) -> str:
    """What ``number`` processes of a role that have no node are waiting for.

    ``free`` are the nodes with what is free of them now.
    """
    able = [node for node in free if node.admits(role)]
    asks = f"{counted(role, number)} without a node ({_each(role)})"
    if not able:
        return f"{asks}: {_has(role, free)}"
    freest = max(able, key=lambda node: (node.room(role), node.gpus, node.cpus))
    labelled = " with these labels" if role.selector else ""
    return (
        f"{asks}: of {len(able)} {_nodes(len(able))}{labelled} the freest has "
        f"{amount(freest.cpus, freest.gpus)} free"
    )


def has_labels(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a node's labels fulfil every condition of a Ray label selector."""
    conditions = ((key, *parse_condition(text)) for key, text in selector.items())
    return all((labels.get(key) in values) == must for key, must, values in conditions)


def parse_condition(text: str) -> tuple[bool, frozenset[str]]:
    """Whether a label must be one of some values, or must not, and these values."""
    bare = text.removeprefix("!")
    values = bare[3:-1].split(",") if bare.startswith("in(") else [bare]
    return bare == text, frozenset(values)


def counted(role: Role, number: int) -> str:
    """``7 rollout runners``"""
    return f"{number} {role.name}" + ("" if number == 1 else "s")


def amount(cpus: float, gpus: float) -> str:
    """``8 CPU, 1 GPU``"""
    return f"{cpus:g} CPU, {gpus:g} GPU"


def _amounts(roles: Sequence[Role], nodes: Sequence[Node]) -> tuple[float, float]:
    """CPUs and GPUs in all of the nodes that admit one of the roles."""
    able = [node for node in nodes if any(node.admits(role) for role in roles)]
    cpus = sum(_times(node.count, node.cpus) for node in able)
    return cpus, sum(_times(node.count, node.gpus) for node in able)


def _times(count: float, each: float) -> float:
    """Of nodes without a bound too, which hold nothing of what each of them lacks."""
    return count * each if each else 0.0


def _nodes(number: float) -> str:
    return "node" if number == 1 else "nodes"


def _each(role: Role) -> str:
    each = amount(role.cpus, role.gpus) + (" each" if role.count > 1 else "")
    return f"{each} on {role.where}" if role.selector else each


def _remedy(role: Role) -> str:
    return REMEDIES.get(role.name, "ask for less")


def _has(role: Role, nodes: Sequence[Node]) -> str:
    """What a cluster has of nodes for a role."""
    able = [node for node in nodes if node.admits(role)]
    if not able:
        return f"no node has these labels (there are {_labels(role, nodes)})"
    has_labels = f" {'has' if len(able) == 1 else 'have'} these labels" if role.selector else ""
    largest = max(able, key=lambda node: (node.room(role), node.gpus, node.cpus))
    return (
        f"{len(able)} {_nodes(len(able))}{has_labels}, of at most "
        f"{amount(largest.cpus, largest.gpus)}"
    )


def _labels(role: Role, nodes: Sequence[Node]) -> str:
    """The values that nodes have of the labels a role asks for."""
    found = {
        key: sorted({node.labels[key] for node in nodes if node.labels and key in node.labels})
        for key in role.selector
    }
    return "; ".join(f"{key}: {', '.join(found[key]) or 'none'}" for key in found)


def _can_add(role: Role, addable: Sequence[Node]) -> str:
    able = [node for node in addable if node.count > 0 and node.admits(role)]
    if not able:
        return "and none can be added"
    number = sum(node.count for node in able)
    largest = max(able, key=lambda node: (node.gpus, node.cpus))
    return f"and {number:g} of up to {amount(largest.cpus, largest.gpus)} can be added"
