"""Placement arithmetic: what a run and its Serve file reserve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from alphagrpo.capacity import Node, Role
from alphagrpo.cli.placement import Placement, placement_of, serve_roles
from alphagrpo.cli.serving import private_cpus
from alphagrpo.config import load_config
from services.serve_config import ServeFile, read_serve_file
from tests.fakes import make_config

ROOT = Path(__file__).parents[3]


def serve_file(folder: Path, *deployments: dict[str, Any], **app: Any) -> ServeFile:
    named = {"name": "judge", "import_path": "x:build", **app}
    if deployments:
        named["deployments"] = list(deployments)
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump({"applications": [named]}), encoding="utf-8")
    return read_serve_file(path)


@pytest.mark.parametrize(
    ("deployment", "count", "largest", "cpus", "gpus"),
    [
        ({}, 1, 1, 1.0, 0.0),
        ({"num_replicas": 3, "ray_actor_options": {"num_cpus": 0.5}}, 3, 3, 0.5, 0.0),
        ({"ray_actor_options": {"num_cpus": 0, "num_gpus": 1}}, 1, 1, 0.0, 1.0),
        ({"autoscaling_config": {"min_replicas": 2, "max_replicas": 5}}, 2, 5, 1.0, 0.0),
        (
            {"autoscaling_config": {"min_replicas": 1, "initial_replicas": 3, "max_replicas": 5}},
            3, 5, 1.0, 0.0,
        ),
        (
            {"num_replicas": "auto", "autoscaling_config": {"min_replicas": 2, "max_replicas": 4}},
            2, 4, 1.0, 0.0,
        ),
    ],
)  # fmt: skip
def test_a_deployments_replicas_and_reservations(
    tmp_path: Path,
    deployment: dict[str, Any],
    count: int,
    largest: int,
    cpus: float,
    gpus: float,
) -> None:
    (role,) = serve_roles(serve_file(tmp_path, {"name": "Judge", **deployment}))
    assert role.name == "serve judge/Judge"
    assert (role.count, role.largest, role.cpus, role.gpus) == (count, largest, cpus, gpus)


def test_an_application_without_deployments_starts_one_replica(tmp_path: Path) -> None:
    (role,) = serve_roles(serve_file(tmp_path))
    assert (role.name, role.count, role.cpus) == ("serve judge/default", 1, 1.0)


def test_the_mesh_is_runners_learner_and_replicas(tmp_path: Path) -> None:
    config = make_config(
        rollout={"num_runners": 3, "cpus_per_runner": 0.5, "gpus_per_runner": 1},
        learner={"cpus": 2, "gpus": 0.5},
    )
    judge = {"name": "Judge", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.4}}
    placement = placement_of(config, serve_file(tmp_path, judge))
    assert [role.name for role in placement.roles] == [
        "rollout runner", "learner", "weight registry", "serve judge/Judge",
    ]  # fmt: skip
    assert placement.cpus == pytest.approx(3 * 0.5 + 2 + 2 * 0.4)
    assert placement.gpus == pytest.approx(3.5)
    assert [role.count for role in placement.replicas] == [2]
    alone = placement_of(config, None)
    assert alone.replicas == ()
    assert alone.cpus == pytest.approx(3.5)


@pytest.mark.parametrize(("cpus", "whole"), [(0.2, 2), (1.0, 2), (1.1, 3), (4.0, 5)])
def test_a_private_cluster_has_whole_cpus_and_one_to_spare(cpus: float, whole: int) -> None:
    placement = Placement(roles=(Role(name="r", count=1, cpus=cpus, gpus=0),))
    assert placement.whole_cpus == whole


def test_services_alone_have_two_cpus_to_spare(tmp_path: Path) -> None:
    judge = {"name": "Judge", "num_replicas": 4, "ray_actor_options": {"num_cpus": 0.6}}
    assert private_cpus(serve_file(tmp_path, judge)) == 4


def test_a_deployments_selector_is_its_actors(tmp_path: Path) -> None:
    options = {"num_cpus": 1, "label_selector": {"mesh.pool": "verifier"}}
    (role,) = serve_roles(serve_file(tmp_path, {"name": "Judge", "ray_actor_options": options}))
    assert role.selector == {"mesh.pool": "verifier"}
    assert role.where == "mesh.pool: verifier"
    (free,) = serve_roles(serve_file(tmp_path))
    assert (free.selector, free.where) == ({}, "")


@pytest.mark.parametrize("recipe", ["bagel-7b-rt2i", "bagel-7b-srr"])
@pytest.mark.parametrize("serve", ["bagel-7b", "bagel-7b-generator"])
def test_the_shipped_selectors_are_the_pools_of_the_shipped_cluster(
    recipe: str, serve: str
) -> None:
    kinds = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["available_node_types"]
    config = load_config(ROOT / f"deploy/configs/{recipe}.yaml")
    placement = placement_of(config, read_serve_file(ROOT / f"deploy/serve/{serve}.yaml"))
    pools = {
        role.name.rpartition("/")[2]: [
            name
            for name, kind in kinds.items()
            if Node(cpus=0, gpus=0, labels=kind["labels"]).admits(role)
        ]
        for role in placement.roles
    }
    generator = {"Generator": ["verifier"]} if "generator" in serve else {}
    assert pools == {
        "rollout runner": ["rollout"],
        "learner": ["learner"],
        "weight registry": ["learner"],
        "Decomposer": ["verifier"],
        "Verifier": ["verifier"],
        "Gateway": ["head"],
        **generator,
    }
    alone = Node(cpus=0, gpus=0, labels={"mesh.pool": "all"})
    assert all(alone.admits(role) for role in placement.roles)
