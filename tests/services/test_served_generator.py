"""The generator as a Serve application in a real cluster: events by handle, followed weights.

Its name comes after ``test_mesh_services``: who starts Serve first decides its HTTP port, and those
tests ask for one of their own.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from alphagrpo.errors import ConfigError
from services.deploying import ensure_deployed, redeploy, undeploy
from services.generator.client import GeneratorClient, connect_generator
from services.serve_config import load_serve_file
from tests.services.test_generator import run, write_checkpoint

__all__ = ["run"]  # a fixture

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def write_config(path: Path, run: dict[str, Any], weights: Path, **options: Any) -> Path:
    """A Serve config of the generator alone."""
    args = {"config": str(run["path"]), "weights": str(weights), "poll_s": 0.5, "max_rounds": 1}
    deployment = {"name": "Generator", "ray_actor_options": {"num_cpus": 0.5}, **options}
    app = {
        "name": "generator",
        "route_prefix": None,
        "import_path": "services.generator:build",
        "args": args,
        "deployments": [deployment],
    }
    config = {"proxy_location": "Disabled", "applications": [app]}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def served(mesh_cluster: str, run: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A generator over a tiny model that follows a run folder; the folder."""
    folder = tmp_path_factory.mktemp("followed") / "r"
    (folder / "checkpoints").mkdir(parents=True)
    path = write_config(folder.parent / "serve.yaml", run, folder)
    ensure_deployed(load_serve_file(path))
    yield folder
    undeploy(["generator"])


async def events_of(client: GeneratorClient, **request: Any) -> list[dict[str, Any]]:
    return [event async for event in client.events(request)]


async def test_rounds_come_as_events_and_newer_weights_are_taken(
    served: Path, run: dict[str, Any]
) -> None:
    client = connect_generator()
    request = {"prompt": "a red circle", "seed": 3, "rounds": 1, "gate": "none"}
    first = await events_of(client, **request)
    assert [e["event"] for e in first] == ["stage", "round", "stage", "round", "done"]
    assert {e["weights"]["version"] for e in first if e["event"] == "round"} == {-1}
    again = await events_of(client, **request)
    assert [e.get("picture") for e in again] == [e.get("picture") for e in first]
    with pytest.raises(ConfigError, match="got 2"):
        await events_of(client, **{**request, "rounds": 2})
    write_checkpoint(run, served, 2)
    until = time.monotonic() + 60
    while (await client.info())["weights"]["version"] != 1:
        assert time.monotonic() < until, "the generator must find the checkpoint"
        await asyncio.sleep(0.2)
    trained = await events_of(client, **request)
    assert trained[1]["weights"]["source"].endswith("step-000002/learner")
    assert trained[1]["picture"] != first[1]["picture"]


async def test_other_weights_are_taken_while_requests_go_on(
    served: Path, run: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "other/checkpoints").mkdir(parents=True)
    write_checkpoint(run, tmp_path / "other", 7)
    user_config = {"weights": str(tmp_path / "other")}
    path = write_config(served.parent / "serve.yaml", run, served, user_config=user_config)
    client = connect_generator()
    before = (await client.info())["weights"]["source"]
    change = asyncio.create_task(asyncio.to_thread(redeploy, load_serve_file(path)))
    until = time.monotonic() + 60
    while "step-000007" not in (now := (await client.info())["weights"]["source"] or ""):
        assert time.monotonic() < until, f"the generator must change its weights, it has {now}"
        await events_of(client, prompt="a red circle", seed=3, rounds=0, gate="none")
    await change
    assert now != before
