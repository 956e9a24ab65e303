"""Changes of what runs while calls go on: none is lost, and none waits for a replica to start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from alphagrpo.errors import EnvironmentProblem
from alphagrpo.types import Question
from benchmarks.serving_probe import replicas_now
from services.client import VerifierClient, connect_verifier
from services.deploying import ensure_deployed, redeploy, undeploy
from services.serve_config import read_serve_file

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

START_S = 8.0
"""How long the stand-in's engine loads its model."""
QUESTIONS = [Question(id="s0", text="is there a fox ?", kind="semantic", tag="Existence")]
PIXELS = np.zeros((8, 8, 3), np.uint8)
FIXED = {"name": "Verifier", "num_replicas": 1, "max_surge_percent": 100}
POLICY = {
    "policy_function": "services.autoscaling:PendingWorkPolicy",
    "policy_kwargs": {"target": 1000, "work_per_request": 1, "window_s": 10},
}
SCALED = {
    "name": "Verifier",
    "max_surge_percent": 100,
    "autoscaling_config": {"min_replicas": 1, "max_replicas": 2, "policy": POLICY},
}


class Site:
    """The stand-in's Serve config, changed and applied again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, deployment: dict[str, Any], revision: str) -> Path:
        app = {
            "name": "changing",
            "route_prefix": None,
            "import_path": "benchmarks.stand_in:build",
            "args": {"start_s": START_S, "picture_s": 0.05, "revision": revision},
            "deployments": [{**deployment, "ray_actor_options": {"num_cpus": 0.1}}],
        }
        self.path.write_text(yaml.safe_dump({"applications": [app]}))
        return self.path

    async def apply(
        self, deployment: dict[str, Any], revision: str, done: Callable[[], bool]
    ) -> None:
        serve_file = read_serve_file(self.write(deployment, revision))
        await asyncio.to_thread(redeploy, serve_file)
        until = time.monotonic() + 240.0
        while not await asyncio.to_thread(done):
            assert time.monotonic() < until, "the change has not arrived"
            await asyncio.sleep(0.2)


class Traffic:
    """Calls one after another, and what they were given."""

    def __init__(self, client: VerifierClient) -> None:
        self.client = client
        self.judge = ""
        self.longest_s = 0.0
        self.ended = asyncio.Event()

    async def run(self) -> None:
        while not self.ended.is_set():
            started = time.perf_counter()
            (verdict,) = await self.client.verify(PIXELS, QUESTIONS)
            self.judge = verdict.judge
            self.longest_s = max(self.longest_s, time.perf_counter() - started)
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def site(mesh_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from ray import serve

    site = Site(tmp_path_factory.mktemp("serve") / "stand-in.yaml")
    serve_file = read_serve_file(site.write(FIXED, "1"))
    serve_file.schema.proxy_location = "Disabled"
    ensure_deployed(serve_file)
    yield site
    # The next module starts Serve with its own HTTP options.
    serve.shutdown()


def test_an_application_that_fits_on_no_node_says_what_it_needs(site: Site, tmp_path: Path) -> None:
    app = {
        "name": "unplaceable",
        "route_prefix": None,
        "import_path": "benchmarks.stand_in:build",
        "args": {"start_s": 0.0},
        "deployments": [
            {
                "name": "Verifier",
                # Serve waits so long for what never started.
                "graceful_shutdown_timeout_s": 1.0,
                "ray_actor_options": {"num_cpus": 4, "num_gpus": 1},
            }
        ],
    }
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump({"applications": [app]}))
    said: list[str] = []
    words = "resources: it needs CPU 4, GPU 1; no node has them"
    with pytest.raises(EnvironmentProblem, match=f"'unplaceable' must be running.*\n.*{words}"):
        ensure_deployed(
            read_serve_file(path),
            timeout_s=25.0,
            progress=lambda states: said.append(states["unplaceable"].waits_for),
        )
    undeploy(["unplaceable"])
    assert any(words in waits_for for waits_for in said), "it is said long before the time is up"


async def test_no_change_of_the_only_replica_is_an_outage(site: Site) -> None:
    traffic = [Traffic(connect_verifier(app="changing", deadline_s=60.0)) for _ in range(4)]
    calls = [asyncio.create_task(stream.run()) for stream in traffic]
    waits: dict[str, float] = {}

    async def change(what: str, deployment: dict[str, Any], judge: str, replicas: int) -> None:
        for stream in traffic:
            stream.longest_s = 0.0

        def done() -> bool:
            judges = {stream.judge for stream in traffic}
            return judges == {f"stand-in@{judge}"} and replicas_now("changing") == (replicas,) * 2

        await site.apply(deployment, revision=judge.partition("-")[0], done=done)
        waits[what] = max(stream.longest_s for stream in traffic)

    await change("from a fixed count to autoscaling", SCALED, "1", 1)
    await change("args", SCALED, "2", 1)
    await change("user_config", {**SCALED, "user_config": {"revision": "2-b"}}, "2-b", 1)
    await change("back to a fixed count, two", {**FIXED, "num_replicas": 2}, "2", 2)
    await change("one replica less", FIXED, "2", 1)
    for stream in traffic:
        stream.ended.set()
    await asyncio.gather(*calls)
    print({what: f"{seconds:.2f} s" for what, seconds in waits.items()})
    assert sum(stream.client.stats.failed for stream in traffic) == 0
    assert sum(stream.client.stats.answered for stream in traffic) > 100
    assert max(waits.values()) < 0.75 * START_S, waits
