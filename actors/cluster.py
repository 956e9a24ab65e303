"""What Ray knows of the cluster: its nodes, which may be added, and who waits for one.

Some of it Ray tells by private names only (2.60): they are used here and nowhere else.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private import state, worker
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.core.generated import common_pb2
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.parts import Handle
from alphagrpo.capacity import Node, Role, lack, parse_condition, run_roles
from alphagrpo.config import RunConfig
from alphagrpo.errors import EnvironmentProblem

log = logging.getLogger(__name__)

LAUNCHER_FILE = "~/ray_bootstrap_config.yaml"
"""Where `ray up` leaves the cluster's file on the head, for the autoscaler there."""
NODE_GROUP = "ray.io/node-group"
"""Label of nodes that a launcher or an operator started: the name of their kind."""
HEAD = "node:__internal_head__"
"""Resource that the head alone has."""
READ_SECONDS = 60.0
"""How long a look into the head's file may take where the driver is elsewhere."""


def check_room(config: RunConfig) -> None:
    """Refuse a run that the connected cluster can never place; nothing is started.

    Raises EnvironmentProblem. Where it is not known what an autoscaler may add, nothing is refused.
    """
    roles, alive = run_roles(config), _alive()
    nodes = [_node(record["Resources"], record["Labels"]) for record in alive]
    if lack(roles, nodes) is None:
        return
    addable = addable_nodes(alive)
    if addable is None:
        log.warning("the cluster has no room for the run now, what it may add is not known")
    elif problem := lack(roles, nodes, addable):
        raise EnvironmentProblem(problem)


def free_nodes() -> list[Node]:
    """The nodes with what no actor, task or replica holds of them."""
    free = state.available_resources_per_node()
    return [_node(free.get(record["NodeID"], {}), record["Labels"]) for record in _alive()]


def is_alive(actor: Handle) -> bool:
    """Whether an actor's constructor is done."""
    return bool(state.actors(actor._actor_id.hex()).get("State") == "ALIVE")


def unplaced(role: Role) -> int:
    """How many processes of the role's size and selector wait for a node, whosever they are.

    One that has a node, but not yet a process there, does not count.
    """
    connection: Any = worker.global_worker
    wanted = {name: amount for name, amount in (("CPU", role.cpus), ("GPU", role.gpus)) if amount}
    return sum(
        pending.count
        for pending in get_cluster_resource_state(connection.gcs_client).pending_resource_requests
        if dict(pending.request.resources_bundle) == wanted
        and _selects(pending.request.label_selectors) == _conditions(role.selector)
    )


def addable_nodes(alive: Sequence[Mapping[str, Any]]) -> list[Node] | None:
    """Kinds of nodes the autoscaler may add to those ``alive``; none without one, None if unknown.

    What the GCS was told comes first, then the file of `ray up`. An operator (KubeRay) keeps its
    limits to itself, and its nodes are known by their label.
    """
    names = Counter(record["Labels"].get(NODE_GROUP) for record in alive)
    told = state.state.get_cluster_config()
    if told is not None and told.node_group_configs:
        return [
            _kind(group.resources, None, _left(group.max_count, names[group.name]))
            for group in told.node_group_configs
        ]
    content = _launcher_file(alive)
    if content is not None:
        return launched_kinds(content, names)
    return None if any(names.keys()) else []


def launched_kinds(content: Mapping[str, Any], names: Mapping[str | None, int]) -> list[Node]:
    """Kinds of nodes that a cluster file of `ray up` lets the autoscaler add.

    ``names`` counts the nodes there are by kind; those that carry no kind count for none, which
    allows rather too much.
    """
    most = int(content.get("max_workers", 0))
    head, kinds = content.get("head_node_type"), content.get("available_node_types", {})
    workers = sum(names.get(name, 0) for name in kinds if name != head)
    return [
        _kind(
            kind.get("resources", {}),
            kind.get("labels", {}),
            min(_left(int(kind.get("max_workers", most)), names.get(name, 0)), most - workers),
        )
        for name, kind in kinds.items()
        if name != head
    ]


def _alive() -> list[dict[str, Any]]:
    return [record for record in ray.nodes() if record["Alive"]]


def _node(resources: Mapping[str, float], labels: Mapping[str, str]) -> Node:
    return Node(cpus=resources.get("CPU", 0), gpus=resources.get("GPU", 0), labels=labels)


def _kind(resources: Mapping[str, float], labels: Mapping[str, str] | None, count: float) -> Node:
    return Node(
        cpus=resources.get("CPU", 0), gpus=resources.get("GPU", 0), labels=labels, count=count
    )


def _left(most: int, there: int) -> float:
    return math.inf if most < 0 else max(0, most - there)


def _selects(selectors: Any) -> set[tuple[str, bool, frozenset[str]]]:
    """Key, whether it must be so, and values of each condition, as Ray has them."""
    is_in = common_pb2.LABEL_OPERATOR_IN  # type: ignore[attr-defined]
    return {
        (c.label_key, c.operator == is_in, frozenset(c.label_values))
        for selector in selectors
        for c in selector.label_constraints
    }


def _conditions(selector: Mapping[str, str]) -> set[tuple[str, bool, frozenset[str]]]:
    """The same of a selector as a run config has it."""
    parsed = ((key, *parse_condition(text)) for key, text in selector.items())
    return {(key, wanted, values) for key, wanted, values in parsed}


def _launcher_file(alive: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The head's cluster file; None where it has none, or it could not be read."""
    head = next((record["NodeID"] for record in alive if HEAD in record["Resources"]), None)
    if head is None or head == ray.get_runtime_context().get_node_id():
        text = _read_launcher_file()
    else:
        read: Any = ray.remote(_read_launcher_file)
        there = NodeAffinitySchedulingStrategy(head, soft=False)
        try:
            found = read.options(num_cpus=0, scheduling_strategy=there).remote()
            text = ray.get(found, timeout=READ_SECONDS)
        except Exception as error:  # a head without our packages, or too busy to answer
            log.warning("the head's %s could not be looked for: %s", LAUNCHER_FILE, error)
            return None
    content = yaml.safe_load(text) if text else None
    return content if isinstance(content, dict) else None


def _read_launcher_file() -> str | None:
    path = Path(LAUNCHER_FILE).expanduser()
    return path.read_text(encoding="utf-8") if path.is_file() else None
