"""What an application waits for: its code, a node that has what it needs, or its engine."""

from __future__ import annotations

from typing import Any

import pytest

from services.waiting import AppState, state_of

LAPTOP = {"Alive": True, "Resources": {"CPU": 8.0}, "Labels": {"mesh.pool": "rollout"}}
GPU_NODE = {"Resources": {"CPU": 16.0, "GPU": 1.0}, "Labels": {"mesh.pool": "verifier"}}


def details(
    *replicas: dict[str, Any],
    wanted: int = 1,
    needs: dict[str, float] | None = None,
    **options: Any,
) -> dict[str, Any]:
    judge = {
        "target_num_replicas": wanted,
        "required_resources": needs or {"CPU": 4.0, "GPU": 1.0},
        "deployment_config": {"ray_actor_options": options},
        "replicas": list(replicas),
    }
    return {"status": "DEPLOYING", "deployments": {"Judge": judge}}


UNPLACED = {"state": "STARTING"}
PLACED = {"state": "STARTING", "node_id": "n1"}
RUNNING = {"state": "RUNNING", "node_id": "n1"}


@pytest.mark.parametrize(
    ("replicas", "nodes", "words"),
    [
        ([PLACED], [GPU_NODE], "its engine to start"),
        ([], [GPU_NODE], "a replica to be made"),
        ([UNPLACED], [LAPTOP], "resources: it needs CPU 4, GPU 1; no node has them"),
        ([UNPLACED], [LAPTOP, GPU_NODE], "its process, on a node with CPU 4, GPU 1 free"),
        ([PLACED, UNPLACED], [LAPTOP], "no node has them"),
    ],
)
def test_what_is_missing_is_said(
    replicas: list[dict[str, Any]], nodes: list[dict[str, Any]], words: str
) -> None:
    state = state_of("verifier", details(*replicas, wanted=2), nodes)
    assert words in state.waits_for
    assert (state.status, state.running, state.wanted) == ("DEPLOYING", 0, 2)


def test_nothing_is_waited_for_where_all_run() -> None:
    state = state_of("verifier", details(RUNNING, RUNNING, wanted=2), [GPU_NODE])
    expected = AppState(name="verifier", status="DEPLOYING", running=2, wanted=2, waits_for="")
    assert state == expected


def test_an_application_without_deployments_is_being_imported() -> None:
    state = state_of("verifier", {"status": "DEPLOYING", "deployments": {}}, [GPU_NODE])
    assert state.waits_for == "its code to be imported"


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ({"mesh.pool": "verifier"}, "on a node with CPU 4, GPU 1, label mesh.pool=verifier free"),
        ({"mesh.pool": "learner"}, "needs CPU 4, GPU 1, label mesh.pool=learner; no node has them"),
        ({"mesh.pool": "!learner"}, "its process, on a node with"),
    ],
)
def test_labels_are_resources_too(selector: dict[str, str], words: str) -> None:
    asked = details(UNPLACED, label_selector=selector)
    assert words in state_of("verifier", asked, [LAPTOP, GPU_NODE]).waits_for


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("verifier", "no node has them"),
        ("in(verifier,all)", "no node has them"),
        ("in(rollout,all)", "free"),
        ("!rollout", "no node has them"),
    ],
)
def test_conditions_on_labels_mean_what_they_mean_to_ray(condition: str, words: str) -> None:
    asked = details(UNPLACED, needs={"CPU": 4.0}, label_selector={"mesh.pool": condition})
    assert words in state_of("verifier", asked, [LAPTOP]).waits_for
