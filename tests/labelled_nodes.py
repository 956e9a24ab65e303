"""Real runs on a cluster of labelled nodes, in a process of their own: what happened, as JSON.

A process joins one cluster in its life, and the tests' process has one. ``python -m
tests.labelled_nodes FOLDER`` starts a head and two workers with logical GPUs, each with a label of
its own, and writes down where Ray says the actors of several runs are.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from alphagrpo.cli.ray_start import free_ports, known_agent_ports, set_environment

SELECTORS = {
    "learner": {"mesh.pool": "learner"},
    "rollout": {"mesh.pool": "in(rollout,all)"},
}
"""Both forms of a condition; the runners' node has the second value."""
PATIENCE_S = 90.0
MAX_STEPS = 50
FOUND = "found.json"


def main(folder: Path) -> None:
    set_environment(private=True)
    import ray

    from actors import waiting

    logging.getLogger("alphagrpo").setLevel(logging.ERROR)
    waiting.FIRST_WORD_S = 1.0
    cluster = start_cluster()
    learner_node = add_node(cluster, "learner", 2, num_gpus=1)
    runners_node = add_node(cluster, "all", 4, num_gpus=2)
    ray.init(address=cluster.address, namespace="labelled", log_to_driver=False)
    here = ray.get_runtime_context().get_node_id()
    found: dict[str, Any] = {"driver": labels_of_nodes()[here]["mesh.pool"]}
    story = Story(folder, found)
    story.refused()
    story.late_beside(story.make("placed", tell=story.lines.append, num_runners=2))
    story.processes_die()
    cluster.remove_node(learner_node, allow_graceful=False)
    add_node(cluster, "learner", 2, num_gpus=1, labels={"late": "yes"})
    story.node_came_back()
    cluster.remove_node(runners_node, allow_graceful=False)
    story.shrunk(lambda: add_node(cluster, "all", 4, num_gpus=2))
    story.judge_moves(cluster)
    story.trials()
    (folder / FOUND).write_text(json.dumps(found), encoding="utf-8")
    ray.shutdown()
    cluster.shutdown()


class Story:
    """One run after another on the same nodes; what Ray says of each goes into ``found``."""

    def __init__(self, folder: Path, found: dict[str, Any]) -> None:
        from tests.tiny_run import write_model, write_prompts

        self.folder, self.found = folder, found
        self.model, self.prompts = write_model(folder / "model"), write_prompts(folder)
        self.run: Any = None
        self.lines: list[str] = []
        """What the run was told."""

    def config(self, name: str, **changes: Any) -> Any:
        from tests.tiny_run import config_for

        sections: dict[str, Any] = {
            "rollout": {"gpus_per_runner": 1.0},
            "learner": {"gpus": 1.0},
            "placement": {**SELECTORS, **changes.pop("placement", {})},
            "output": str(self.folder / "runs"),
        }
        return config_for(name, self.model, self.prompts, **{**sections, **changes})

    def make(self, name: str, tell: Callable[[str], None] | None = None, **changes: Any) -> Any:
        from actors.run import MeshRun
        from tests.tiny_run import DECOMPOSER, VERIFIER

        config = self.config(name, **changes)
        return MeshRun(config, decomposer=DECOMPOSER, verifier=VERIFIER, tell=tell)

    def refusal(self, name: str, **options: Any) -> str:
        from alphagrpo.errors import EnvironmentProblem

        try:
            self.make(name, **options).stop()
        except EnvironmentProblem as error:
            return str(error)
        return "it was not refused"

    def refused(self) -> None:
        self.found["refused for GPUs"] = self.refusal("greedy", learner={"gpus": 1.0, "ranks": 3})
        lost = {"weights": {"mesh.pool": "vault"}}
        self.found["refused for a label"] = self.refusal("lost", placement=lost)
        self.found["started by refused runs"] = list(places())

    def late_beside(self, run: Any) -> None:
        """A run that would fit, were the GPUs not held by another; its registry has no selector."""
        self.run, told, seen = run, [], {}
        self.found["at the start"] = places()

        def tell(line: str) -> None:
            told.append(line)
            seen.update(places(whole_name=True))

        placement = {"deadline_s": 12.0, "weights": {}}
        self.found["late"] = self.refusal(
            "late", tell=tell, learner={"gpus": 0.0}, placement=placement
        )
        self.found["late was told"] = told
        self.found["registry without a selector"] = seen.get("alphagrpo:late:weights")

    def processes_die(self) -> None:
        import ray

        run = self.run
        run.step()
        pid = run.wait_for(run.pool.status())[0]["pid"]
        os.kill(pid, signal.SIGKILL)
        ray.kill(run.mesh.registry, no_restart=False)
        self.found["steps without runner and registry"] = run.step().step
        until(lambda: run.pool.restarts == 1)
        self.found["runner is another process"] = pid not in {
            status["pid"] for status in run.wait_for(run.pool.status())
        }
        self.found["after both restarted"] = places()
        run.save(self.folder / "checkpoint")

    def node_came_back(self) -> None:
        """The learner's node went with learner and registry, and another came."""
        self.found["steps after the node's loss"] = self.run.step().step
        self.found["on another node"] = places()
        self.found["on the new node"] = [role for role, late in places("late").items() if late]

    def shrunk(self, grow: Callable[[], Any]) -> None:
        """The node of both runners is gone, and none may have them until there is another."""
        self.lines.clear()
        with ThreadPoolExecutor(1) as thread:
            step = thread.submit(self.run.step)
            until(lambda: any("without a node" in line for line in self.lines))
            self.found["waited for a node"] = not step.done()
            self.found["shrunk was told"] = list(self.lines)
            grow()
            self.found["steps after it grew"] = step.result(PATIENCE_S * 3).step
        # One runner is enough for a step; the other may still be loading.
        until(lambda: len(places()) == len(self.found["at the start"]))
        self.found["after it grew"] = places()
        self.run.stop()

    def judge_moves(self, cluster: Any) -> None:
        """The node of the only verifier goes in the middle of its calls, and another comes."""
        import asyncio

        import numpy as np
        from ray import serve

        from services.client import connect_verifier
        from tests.fakes import make_questions
        from tests.stand_in_services import build_verifier

        node = add_node(cluster, "judge", 1)
        options = {"num_cpus": 1, "label_selector": {"mesh.pool": "judge"}}
        serve.start(http_options={"location": "NoServer"})
        app = build_verifier({"ray_actor_options": options})
        serve.run(app, name="verifier", route_prefix=None)
        pixels = np.zeros((4, 4, 3), np.uint8)

        async def replicas() -> list[int]:
            """Asks until another process answers; none of its calls fails."""
            client = connect_verifier(deadline_s=3 * PATIENCE_S)
            pids: list[int] = []
            while len(set(pids)) < 2:
                await client.verify(pixels, make_questions("x").questions)
                pids.append((await client.info())["pid"])
                asked.set()
                await asyncio.sleep(0.1)
            return pids

        asked = threading.Event()
        # Nodes are started and stopped in the main thread: they handle signals.
        with ThreadPoolExecutor(1) as thread:
            answers = thread.submit(asyncio.run, replicas())
            until(asked.is_set)
            cluster.remove_node(node, allow_graceful=False)
            add_node(cluster, "judge", 1)
            self.found["replicas of the judge"] = answers.result(3 * PATIENCE_S)
        serve.shutdown()

    def trials(self) -> None:
        """Two trials of Tune, each going on until the actors of both were there at once."""
        from ray import tune

        from actors.algorithm import AlphaGRPO, AlphaGRPOConfig
        from tests.tiny_run import DECOMPOSER, VERIFIER

        param_space = AlphaGRPOConfig().mesh(
            run=self.config("trial", learner={"gpus": 0.5, "cpus": 0.5}),
            overrides={"optimizer.lr": tune.grid_search([1e-5, 5e-5])},
            decomposer=DECOMPOSER,
            verifier=VERIFIER,
        )
        watcher = Watcher(2 * len(("learner", "weights", "rollout-0")), self.folder / "all there")
        with watcher:
            results = tune.Tuner(
                AlphaGRPO,
                param_space=param_space,
                run_config=tune.RunConfig(
                    name="tuned",
                    storage_path=str(self.folder / "tune"),
                    stop=partial(all_were_there, watcher.sign),
                    verbose=0,
                ),
            ).fit()
        self.found["trials"] = {
            "errors": [str(error) for error in results.errors],
            "steps": [(result.metrics or {}).get("training_iteration", 0) for result in results],
            "ids": [(result.metrics or {}).get("trial_id") for result in results],
            "rates": sorted(result.config["mesh_overrides"]["optimizer.lr"] for result in results),
            "at once": watcher.most,
        }


class Watcher:
    """Looks where actors are, again and again, and keeps the look that found most of them.

    Once it has found as many as ``number`` there is a file ``sign``.
    """

    def __init__(self, number: int, sign: Path) -> None:
        self.most: dict[str, str | None] = {}
        self.number, self.sign = number, sign
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            now = places(whole_name=True)
            if len(now) > len(self.most):
                self.most = now
            if len(now) == self.number:
                self.sign.touch()


def all_were_there(sign: Path, _trial: str, result: Mapping[str, Any]) -> bool:
    """Whether a trial may end."""
    return sign.exists() or result["training_iteration"] >= MAX_STEPS


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
    with known_agent_ports(*ports[:3]):
        return cluster.add_node(
            num_cpus=num_cpus,
            labels=labels,
            dashboard_agent_listen_port=ports[1],
            metrics_export_port=ports[3],
            **options,
        )


def places(label: str = "mesh.pool", *, whole_name: bool = False) -> dict[str, str | None]:
    """Role of each actor that runs to a label of the node on which Ray says it is."""
    from ray._private import state

    labels = labels_of_nodes()
    return {
        record["Name"] if whole_name else record["Name"].rsplit(":", 1)[1]: labels[
            record["Address"]["NodeID"]
        ].get(label)
        for record in state.actors().values()
        if record["State"] == "ALIVE" and record["Name"].startswith("alphagrpo:")
    }


def labels_of_nodes() -> dict[str, Mapping[str, str]]:
    import ray

    return {node["NodeID"]: node["Labels"] for node in ray.nodes()}


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
