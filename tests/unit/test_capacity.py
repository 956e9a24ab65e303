"""Whether a cluster has room for a run, on nodes that are plain records."""

from __future__ import annotations

import math
from typing import Any

import pytest
from ray._private.label_utils import validate_label_selector

from alphagrpo.capacity import Node, Role, lack, run_roles, waiting_for
from alphagrpo.config.placement import check_selector
from tests.fakes import make_config


def node(cpus: float, gpus: float, pool: str | None = None, count: float = 1) -> Node:
    return Node(cpus=cpus, gpus=gpus, labels={"mesh.pool": pool} if pool else {}, count=count)


def roles(
    runners: int = 2, *, selected: bool = True, learner: tuple[float, float] = (8, 1)
) -> tuple[Role, ...]:
    pools = {"learner": {"mesh.pool": "learner"}, "rollout": {"mesh.pool": "rollout"}}
    rollout = {"num_runners": runners, "cpus_per_runner": 4, "gpus_per_runner": 1}
    return run_roles(
        make_config(
            rollout=rollout,
            learner={"cpus": learner[0], "gpus": learner[1]},
            placement=pools if selected else {},
        )
    )


HEAD = node(8, 0, "head")
CLUSTER = (HEAD, node(16, 1, "learner"), node(8, 2, "rollout"))


def test_the_roles_of_a_run_and_where_the_registry_belongs() -> None:
    runner, learner, registry = roles()
    assert (runner.count, runner.cpus, runner.gpus) == (2, 4, 1)
    assert (learner.count, learner.cpus, learner.gpus) == (1, 8, 1)
    assert (registry.count, registry.cpus, registry.gpus) == (1, 0, 0)
    assert runner.selector == {"mesh.pool": "rollout"}
    assert registry.selector == learner.selector == {"mesh.pool": "learner"}
    own = run_roles(make_config(placement={"learner": {"a": "b"}, "weights": {}}))
    assert [role.selector for role in own] == [{}, {"a": "b"}, {}]


@pytest.mark.parametrize(
    ("selector", "labels", "fits"),
    [
        ({}, {}, True),
        ({"pool": "a"}, {"pool": "a"}, True),
        ({"pool": "a"}, {"pool": "b"}, False),
        ({"pool": "a"}, {}, False),
        ({"pool": "!a"}, {"pool": "b"}, True),
        ({"pool": "!a"}, {"pool": "a"}, False),
        ({"pool": "!a"}, {}, True),
        ({"pool": "in(a,b)"}, {"pool": "b"}, True),
        ({"pool": "in(a,b)"}, {"pool": "c"}, False),
        ({"pool": "!in(a,b)"}, {"pool": "b"}, False),
        ({"pool": "!in(a,b)"}, {}, True),
        ({"pool": "a", "zone": "x"}, {"pool": "a", "zone": "y"}, False),
        ({"pool": "a"}, None, True),
    ],
)
def test_a_node_admits_a_role_by_its_labels(
    selector: dict[str, str], labels: dict[str, str] | None, fits: bool
) -> None:
    assert check_selector(selector) == selector
    assert validate_label_selector(selector) is None, "Ray takes it too"
    role = Role(name="r", count=1, cpus=1, gpus=0, selector=selector)
    assert Node(cpus=1, gpus=0, labels=labels).admits(role) is fits


@pytest.mark.parametrize(
    ("cpus", "gpus", "room"), [(4, 1, 1), (8, 1, 1), (8, 2.5, 2), (3.9, 9, 0), (0, 0, 0)]
)
def test_a_node_takes_whole_processes(cpus: float, gpus: float, room: int) -> None:
    runner = Role(name="r", count=1, cpus=4, gpus=1)
    assert Node(cpus=cpus, gpus=gpus).room(runner) == room
    assert Node(cpus=cpus, gpus=gpus, count=3).room(runner) == 3 * room


def test_fractions_fill_a_node_and_what_asks_for_nothing_has_room_anywhere() -> None:
    tenth = Role(name="r", count=1, cpus=0.1, gpus=0)
    assert Node(cpus=0.3, gpus=0).room(tenth) == 3
    nothing = Role(name="r", count=1, cpus=0, gpus=0)
    assert Node(cpus=0, gpus=0).room(nothing) == math.inf
    assert Node(cpus=0, gpus=0, count=0).room(nothing) == 0
    assert Node(cpus=4, gpus=0, count=math.inf).room(Role(name="r", count=1, cpus=1, gpus=1)) == 0


def test_a_cluster_with_room_lacks_nothing() -> None:
    assert lack(roles(), CLUSTER) is None
    assert lack(roles(selected=False), [node(16, 3)]) is None
    assert lack(roles(), [Node(cpus=64, gpus=8, labels=None)]) is None


@pytest.mark.parametrize(
    ("asked", "nodes", "words"),
    [
        (
            {"runners": 3},
            CLUSTER,
            "room for 2 of 3 rollout runners (4 CPU, 1 GPU each on mesh.pool: rollout): 1 node has "
            "these labels, of at most 8 CPU, 2 GPU, and none can be added; lower "
            "rollout.num_runners",
        ),
        (
            {"learner": (17, 1)},
            CLUSTER,
            "room for 0 of 1 learner (17 CPU, 1 GPU on mesh.pool: learner): 1 node has these "
            "labels, of at most 16 CPU, 1 GPU, and none can be added; lower learner.ranks, ",
        ),
        (
            {},
            (HEAD, CLUSTER[2]),
            "0 of 1 learner (8 CPU, 1 GPU on mesh.pool: learner): no node has these labels (there "
            "are mesh.pool: head, rollout), and none can be added; lower learner.ranks, "
            "learner.cpus or learner.gpus, change placement.learner, or start such nodes",
        ),
        (
            {"selected": False, "learner": (24, 1)},
            (node(16, 1), node(16, 1)),
            "0 of 1 learner (24 CPU, 1 GPU): 2 nodes, of at most 16 CPU, 1 GPU, and none",
        ),
        (
            {"selected": False},
            (node(32, 2),),
            "2 rollout runners and 1 learner ask for 16 CPU, 3 GPU, the nodes they may use have "
            "32 CPU, 2 GPU and 0 CPU, 0 GPU can be added; lower rollout.num_runners",
        ),
    ],
    ids=["runners", "learner", "labels", "no-selector", "together"],
)
def test_what_a_cluster_lacks_is_named(
    asked: dict[str, Any], nodes: tuple[Node, ...], words: str
) -> None:
    found = lack(roles(**asked), nodes)
    assert found is not None
    assert words in found


def test_what_may_be_added_counts_but_only_where_its_labels_do() -> None:
    assert lack(roles(5), CLUSTER, [node(8, 1, "rollout", count=3)]) is None
    assert lack(roles(5), CLUSTER, [node(8, 1, "rollout", count=math.inf)]) is None
    assert lack(roles(5), CLUSTER, [Node(cpus=8, gpus=1, labels=None, count=3)]) is None
    few = lack(roles(5), CLUSTER, [node(8, 1, "rollout", count=2), node(8, 1, "verifier", count=9)])
    assert few is not None
    assert "room for 4 of 5 rollout runners" in few
    assert "2 of up to 8 CPU, 1 GPU can be added" in few
    # Kinds without bound that hold no GPU hold none together either.
    assert lack(roles(), [HEAD], [Node(cpus=8, gpus=0, labels=None, count=math.inf)]) is not None


def test_a_registry_needs_a_node_too() -> None:
    config = make_config(placement={"weights": {"mesh.pool": "vault"}})
    found = lack(run_roles(config), [node(8, 0, "head")])
    assert found is not None
    assert "0 of 1 weight registry (0 CPU, 0 GPU on mesh.pool: vault)" in found
    assert "change placement.weights" in found


def test_who_waits_is_told_with_the_freest_node_that_would_do() -> None:
    runner, learner, _ = roles(7)
    free = [node(8, 4, "head"), node(2, 0, "rollout"), node(3, 1, "rollout")]
    assert waiting_for(runner, 2, free) == (
        "2 rollout runners without a node (4 CPU, 1 GPU each on mesh.pool: rollout): of 2 nodes "
        "with these labels the freest has 3 CPU, 1 GPU free"
    )
    assert waiting_for(learner, 1, free) == (
        "1 learner without a node (8 CPU, 1 GPU on mesh.pool: learner): no node has these labels "
        "(there are mesh.pool: head, rollout)"
    )
