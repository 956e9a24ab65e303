"""Real runs on a cluster of labelled nodes, in a process of their own: what happened, as JSON.

A process joins one cluster in its life, and the tests' process has one. ``python -m
tests.labelled_nodes FOLDER`` starts a head and two workers with logical GPUs, each with a label of
its own, and prints where Ray says the actors are.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alphagrpo.cli.ray_start import _no_wait_for_agents, free_ports, set_environment

SELECTORS = {
    "learner": {"mesh.pool": "in(learner, all)"},
    "rollout": {"mesh.pool": "in(rollout, all)"},
}
PATIENCE_S = 90.0
FOUND = "found.json"


def main(folder: Path) -> None:
    set_environment(private=True)
    import ray

    from actors import waiting
    from actors.run import MeshRun
    from alphagrpo.errors import EnvironmentProblem
    from tests.tiny_run import DECOMPOSER, VERIFIER, config_for, write_model, write_prompts

    logging.getLogger("alphagrpo").setLevel(logging.ERROR)
    waiting.FIRST_WORD_S = 1.0
    cluster = start_cluster()
    learner_node = add_node(cluster, "learner", 2, num_gpus=1)
    add_node(cluster, "rollout", 4, num_gpus=2)
    ray.init(address=cluster.address, namespace="labelled", log_to_driver=False)
    model, prompts = write_model(folder / "model"), write_prompts(folder)

    def config(name: str, **changes: Any) -> Any:
        sections: dict[str, Any] = {
            "rollout": {"gpus_per_runner": 1.0},
            "learner": {"gpus": 1.0},
            "placement": {**SELECTORS, **changes.pop("placement", {})},
            "output": str(folder / "runs"),
        }
        return config_for(name, model, prompts, **{**sections, **changes})

    def make(*arguments: Any, **options: Any) -> Any:
        return MeshRun(*arguments, decomposer=DECOMPOSER, verifier=VERIFIER, **options)

    def refusal(config: Any, **options: Any) -> str:
        try:
            make(config, **options).stop()
        except EnvironmentProblem as error:
            return str(error)
        return "it was not refused"

    found: dict[str, Any] = {}
    found["refused"] = {
        "learner": refusal(config("greedy", learner={"gpus": 2.0})),
        "label": refusal(config("lost", placement={"weights": {"mesh.pool": "vault"}})),
    }
    found["started by refused runs"] = sorted(places())

    run = make(config("placed", num_runners=2))
    found["start"] = places()
    told: list[str] = []
    full = config("late", learner={"gpus": 0.0}, placement={"deadline_s": 8.0})
    found["late"] = refusal(full, tell=told.append)
    found["told"] = told

    run.step()
    runner = run.wait_for(run.pool.status())[0]
    os.kill(runner["pid"], signal.SIGKILL)
    ray.kill(run.mesh.registry, no_restart=False)
    found["step without runner and registry"] = run.step().step
    run.save(folder / "checkpoint")
    until(lambda: run.pool.restarts == 1)
    found["restarted"] = places()

    # The node goes, with learner and registry; another comes later, as a cluster would grow.
    cluster.remove_node(learner_node, allow_graceful=False)
    add_node(cluster, "learner", 2, num_gpus=1, labels={"late": "yes"})
    found["step without the learner's node"] = run.step().step
    found["on another node"] = places()
    found["of them on the new one"] = [role for role, late in places("late").items() if late]
    run.stop()

    free = make(config("free", learner={"gpus": 0.0}, placement={"learner": {}}))
    found["without a selector"] = places()["weights"]
    free.stop()
    (folder / FOUND).write_text(json.dumps(found), encoding="utf-8")
    ray.shutdown()
    cluster.shutdown()


def start_cluster() -> Any:
    """A head with the label ``head`` and room for no actor."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    add_node(cluster, "head", include_dashboard=False, dashboard_port=free_ports(1)[0])
    return cluster


def add_node(cluster: Any, pool: str, num_cpus: int = 0, **options: Any) -> Any:
    """A node with a pool's label, which has all the time that a busy machine needs."""
    ports = free_ports(4)
    labels = {"mesh.pool": pool, **options.pop("labels", {})}
    with _no_wait_for_agents(*ports[:3]):
        return cluster.add_node(
            num_cpus=num_cpus,
            labels=labels,
            dashboard_agent_listen_port=ports[1],
            metrics_export_port=ports[3],
            **options,
        )


def places(label: str = "mesh.pool") -> dict[str, str | None]:
    """Role of each actor that runs to a label of the node on which Ray says it is."""
    import ray
    from ray._private import state

    labels: Mapping[str, Any] = {node["NodeID"]: node["Labels"] for node in ray.nodes()}
    return {
        record["Name"].rsplit(":", 1)[1]: labels[record["Address"]["NodeID"]].get(label)
        for record in state.actors().values()
        if record["State"] == "ALIVE" and record["Name"].startswith("alphagrpo:")
    }


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def environment(folder: Path) -> dict[str, str]:
    """For the process: a token and a session folder of its own, so that no other Ray sees it."""
    return {
        **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "3",
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
