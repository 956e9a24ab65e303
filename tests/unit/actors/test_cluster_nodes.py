"""What may be added to a cluster, from the records Ray keeps of it."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.core.generated import common_pb2
from ray.core.generated.autoscaler_pb2 import ClusterConfig, ClusterResourceState

from actors import cluster
from actors.cluster import NODE_GROUP, addable_nodes, check_room, launched_kinds, unplaced
from alphagrpo.capacity import Node, run_roles
from alphagrpo.errors import EnvironmentProblem
from tests.fakes import make_config

ROOT = Path(__file__).parents[3]
FILE = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text(encoding="utf-8"))


def record(number: int, kind: str | None = None, *, alive: bool = True, **resources: float) -> Any:
    labels = {"mesh.pool": "x"} | ({NODE_GROUP: kind} if kind else {})
    return {"NodeID": str(number), "Alive": alive, "Resources": resources, "Labels": labels}


class FakeRay:
    """The cluster as ``actors.cluster`` sees it; the driver is on node 0, the head."""

    def __init__(self, *records: Any, config: Any = None, launcher: str | None = None) -> None:
        self.records, self.config, self.launcher = records, config, launcher
        self.state = SimpleNamespace(get_cluster_config=lambda: self.config)

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        context = SimpleNamespace(get_node_id=lambda: "0")
        monkeypatch.setattr(
            cluster, "ray", SimpleNamespace(
                nodes=lambda: list(self.records), get_runtime_context=lambda: context
            )
        )  # fmt: skip
        monkeypatch.setattr(cluster, "state", self)
        monkeypatch.setattr(cluster, "_read_launcher_file", lambda: self.launcher)


HEAD = record(0, CPU=8, **{cluster.HEAD: 1})


def test_the_shipped_cluster_file_grows_by_what_is_left_of_each_kind() -> None:
    kinds = launched_kinds(FILE, {"head": 1, "learner": 1, "rollout": 3, "verifier": 1})
    pools = {node.labels["mesh.pool"]: node for node in kinds if node.labels}
    assert set(pools) == {"learner", "rollout", "verifier"}
    assert {pool: node.count for pool, node in pools.items()} == {
        "learner": 7, "rollout": 13, "verifier": 10,
    }  # fmt: skip
    assert (pools["rollout"].cpus, pools["rollout"].gpus) == (16, 1)


def test_the_whole_clusters_limit_holds_for_each_kind() -> None:
    small = {**FILE, "max_workers": 6}
    counts = [node.count for node in launched_kinds(small, {"head": 1, "learner": 1, "rollout": 3})]
    assert counts == [2, 2, 2]


@pytest.mark.parametrize(
    ("ray", "expected"),
    [
        (FakeRay(HEAD), []),
        (FakeRay(HEAD, record(1, "workers", CPU=4)), None),
    ],
    ids=["nothing-scales", "an-operator-scales"],
)
def test_a_cluster_without_a_file_grows_not_or_nobody_knows(
    ray: FakeRay, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.put_in(monkeypatch)
    assert addable_nodes(ray.records) == expected


def test_what_the_gcs_was_told_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    told = ClusterConfig()
    told.node_group_configs.add(name="big", max_count=3, resources={"CPU": 16, "GPU": 2})
    told.node_group_configs.add(name="any", max_count=-1, resources={"CPU": 4})
    ray = FakeRay(HEAD, record(1, "big", CPU=16, GPU=2), config=told, launcher=yaml.safe_dump(FILE))
    ray.put_in(monkeypatch)
    assert addable_nodes(ray.records) == [
        Node(cpus=16, gpus=2, labels=None, count=2),
        Node(cpus=4, gpus=0, labels=None, count=math.inf),
    ]


@pytest.mark.parametrize("num_runners", [1, 16, 17])
def test_a_run_is_refused_only_where_the_cluster_cannot_grow_to_it(
    num_runners: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeRay(HEAD, record(9, alive=False, CPU=99, GPU=99), launcher=yaml.safe_dump(FILE)).put_in(
        monkeypatch
    )
    config = make_config(
        rollout={"num_runners": num_runners, "gpus_per_runner": 1},
        learner={"gpus": 1},
        placement={"learner": {"mesh.pool": "learner"}, "rollout": {"mesh.pool": "rollout"}},
    )
    if num_runners <= 16:
        check_room(config)
        return
    with pytest.raises(EnvironmentProblem, match="room for 16 of 17 rollout runners"):
        check_room(config)


def test_nothing_is_refused_where_growth_is_not_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FakeRay(HEAD, record(1, "workers", CPU=1)).put_in(monkeypatch)
    check_room(make_config(rollout={"gpus_per_runner": 8}))
    assert "not known" in caplog.text


def test_only_requests_of_a_roles_size_and_selector_wait_for_its_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = ClusterResourceState()

    def pending(count: int, resources: dict[str, float], **conditions: str) -> None:
        added = state.pending_resource_requests.add(count=count)
        added.request.resources_bundle.update(resources)
        selector = added.request.label_selectors.add()
        for key, value in conditions.items():
            selector.label_constraints.add(
                label_key=key, label_values=value.split(), operator=common_pb2.LABEL_OPERATOR_IN
            )

    pending(2, {"CPU": 1, "GPU": 1}, pool="a b")
    pending(4, {"CPU": 1, "GPU": 1}, pool="a")
    pending(8, {"CPU": 1, "GPU": 1})
    pending(16, {}, pool="b a")
    monkeypatch.setattr(cluster, "get_cluster_resource_state", lambda _: state)
    connection = SimpleNamespace(global_worker=SimpleNamespace(gcs_client=None))
    monkeypatch.setattr(cluster, "worker", connection)
    config = make_config(
        rollout={"gpus_per_runner": 1},
        learner={"gpus": 1},
        placement={"rollout": {"pool": "in(a,b)"}, "weights": {"pool": "in(b,a)"}},
    )
    assert [unplaced(role) for role in run_roles(config)] == [2, 8, 16]
