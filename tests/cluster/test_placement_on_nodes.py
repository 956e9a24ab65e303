"""Where actors really are on a cluster of labelled nodes, and what a run says that has no room."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.labelled_nodes import FOUND, environment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PLACES = {"learner": "learner", "weights": "learner", "rollout-0": "all", "rollout-1": "all"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/labelled_nodes.py found, in a process and a cluster of its own."""
    folder = tmp_path_factory.mktemp("labelled")
    # Paths of Ray's sockets have to be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as session:
        done = subprocess.run(
            [sys.executable, "-m", "tests.labelled_nodes", str(folder)],
            env=environment(Path(session)),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=800,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / FOUND).read_text(encoding="utf-8"))


def test_every_actor_is_on_a_node_of_its_pool_and_the_registry_with_the_learner(found) -> None:
    assert found["at the start"] == PLACES


def test_a_registry_without_a_selector_is_beside_the_driver(found) -> None:
    assert found["registry without a selector"] == found["driver"]


def test_a_run_that_can_never_be_placed_is_refused_and_starts_nothing(found) -> None:
    assert (
        "room for 1 of 3 learners (1 CPU, 1 GPU each on mesh.pool: learner)"
        in (found["refused for GPUs"])
    )
    assert (
        "no node has these labels (there are mesh.pool: all, head, learner)"
        in (found["refused for a label"])
    )
    assert found["started by refused runs"] == []


def test_a_run_that_has_to_wait_says_for_whom_and_gives_up_at_its_deadline(found) -> None:
    lacks = (
        "1 rollout runner without a node (1 CPU, 1 GPU on mesh.pool: in(rollout,all)): of 1 node"
    )
    assert lacks in found["late"]
    assert "placement.deadline_s, after 12 s" in found["late"]
    assert any(lacks in line and line.startswith("waiting for") for line in found["late was told"])


def test_a_runner_and_a_registry_that_died_come_back_where_they_belong(found) -> None:
    assert found["steps without runner and registry"] == 2
    assert found["runner is another process"]
    assert found["after both restarted"] == PLACES


def test_a_learner_whose_node_is_lost_waits_for_another_of_its_pool(found) -> None:
    assert found["steps after the node's loss"] == 3
    assert found["on another node"] == PLACES
    assert sorted(found["on the new node"]) == ["learner", "weights"]


def test_a_cluster_that_shrank_is_waited_for_with_a_word_and_goes_on_when_it_grows(found) -> None:
    assert found["waited for a node"]
    assert any("1 rollout runner without a node" in line for line in found["shrunk was told"])
    assert found["steps after it grew"] == 4
    assert found["after it grew"] == PLACES


def test_a_judge_whose_node_is_lost_answers_from_another(found) -> None:
    assert len(set(found["replicas of the judge"])) == 2


def test_two_trials_of_tune_train_at_once_as_runs_of_their_own(found) -> None:
    trials = found["trials"]
    assert trials["errors"] == []
    assert min(trials["steps"]) >= 1
    assert trials["rates"] == [1e-5, 5e-5]
    assert len(set(trials["ids"])) == 2
    assert trials["at once"] == {
        f"alphagrpo:trial-{trial}:{role}": place
        for trial in trials["ids"]
        for role, place in PLACES.items()
        if role != "rollout-1"
    }
