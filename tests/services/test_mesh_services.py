"""The real thing, once: both engines and the gateway from the Serve config, faults included."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml

from alphagrpo.errors import NoQuestions
from alphagrpo.images import encode_png_base64
from alphagrpo.shapes.render import render
from alphagrpo.shapes.world import Scene, SceneObject
from alphagrpo.types import Prompt, Question
from benchmarks.scraping import Series, metrics_url, scrape, scrape_until
from services.client import connect_decomposer, connect_verifier
from services.deploying import ensure_deployed, redeploy, undeploy
from services.paths import project_root
from services.serve_config import load_serve_file
from tests.conftest import METRICS_REPORT_MS
from tests.services.models import is_trained, miniature

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(1500)]

APPS = ("decomposer", "verifier", "gateway")
QUESTIONS = [
    Question(id=f"s{i}", text=f"is there a {colour} circle ?", kind="semantic", tag="Existence")
    for i, colour in enumerate(("red", "green", "blue", "yellow"))
] + [Question(id="q0", text="are the objects drawn well ?", kind="quality", tag="Geometry")]


def _picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 48, 3), dtype=np.uint8)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def config(mesh_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The shapes config on a free port, deployed; with random models where there are no others."""
    folder = tmp_path_factory.mktemp("serve")
    raw = yaml.safe_load((project_root() / "deploy/serve/shapes.yaml").read_text())
    raw["http_options"]["port"] = _free_port()
    for app in raw["applications"]:
        if app["name"] != "gateway":
            app["args"]["engine"]["model"] = str(miniature(app["name"], folder))
    path = folder / "shapes.yaml"
    path.write_text(yaml.safe_dump(raw))
    seen: list[dict[str, str]] = []
    report = ensure_deployed(
        load_serve_file(path),
        progress=lambda states: seen.append({n: s.status for n, s in states.items()}),
    )
    assert set(report.started) == set(APPS)
    assert set(seen[-1].values()) == {"RUNNING"}
    yield path
    undeploy(APPS)


def _verifier_pids() -> list[int]:
    from ray.serve.context import _get_global_client

    details = _get_global_client().get_serve_details()["applications"]["verifier"]
    replicas = details["deployments"]["Verifier"]["replicas"]
    return [replica["pid"] for replica in replicas if replica["state"] == "RUNNING"]


def _engines_of(replica: psutil.Process) -> list[psutil.Process]:
    """Its vLLM processes; there is at least one."""
    children = replica.children(recursive=True)
    engines = [c for c in children if "EngineCore" in " ".join([c.name(), *c.cmdline()])]
    assert engines
    return engines


def _wait_for_replicas(number: int) -> None:
    until = time.monotonic() + 300
    while len(_verifier_pids()) != number:
        assert time.monotonic() < until, f"{_verifier_pids()} run, {number} replicas were asked for"
        time.sleep(0.5)


def _url(config: Path) -> str:
    return f"http://127.0.0.1:{yaml.safe_load(config.read_text())['http_options']['port']}"


def test_services_that_run_are_left_alone(config):
    pids = _verifier_pids()
    report = ensure_deployed(load_serve_file(config))
    assert report.started == ()
    assert set(report.attached) == set(APPS)
    assert _verifier_pids() == pids


async def test_decompose_answers_with_a_set_or_a_reason(config, tmp_path):
    client = connect_decomposer(question_store=str(tmp_path))
    revision = await client.revision()
    assert revision.startswith("single@")
    # A random model, used where the repository has none yet, may not end its answer in time.
    with contextlib.nullcontext() if is_trained("decomposer") else contextlib.suppress(NoQuestions):
        made = await client.decompose(Prompt(id="p", text="a red circle"))
        assert made.revision == revision
        assert await client.decompose(Prompt(id="p", text="a red circle")) == made
        assert client.store_hits == 1
    with pytest.raises(NoQuestions, match="characters"):
        await client.decompose(Prompt(id="p", text=" "))


@pytest.mark.skipif(not is_trained("verifier"), reason="deploy/models/verifier is not there yet")
async def test_the_trained_verifier_sees_what_is_drawn(config):
    pixels = render(Scene((SceneObject("circle", "red", 1, 1),), "white"))
    seen = await connect_verifier().verify(pixels, QUESTIONS[:4])
    assert [v.p_yes > 0.5 for v in seen] == [True, False, False, False]


async def test_verify_gives_the_same_numbers_for_one_question_and_for_many(config):
    client = connect_verifier()
    together = await client.verify(_picture(0), QUESTIONS)
    assert [v.question_id for v in together] == [q.id for q in QUESTIONS]
    assert all(0 < v.p_yes < 1 for v in together)
    # Another picture first, so that neither prefix nor answer of the first is at hand by luck.
    await client.verify(_picture(1), QUESTIONS)
    again = await client.verify(_picture(0), QUESTIONS[2:3])
    assert again[0].p_yes == pytest.approx(together[2].p_yes, abs=1e-5)
    assert len({v.judge for v in together}) == 1


async def test_the_gateway_scores_over_http(config):
    questions = [{"id": q.id, "text": q.text, "kind": q.kind, "tag": q.tag} for q in QUESTIONS]
    body: dict[str, Any] = {
        "prompt": "a red circle",
        "image": encode_png_base64(_picture(0)),
        "questions": questions,
    }
    async with httpx.AsyncClient(base_url=_url(config), timeout=60) as http:
        assert (await http.get("/healthz")).json()["status"] == "ok"
        answer = await http.post("/v1/score", json=body)
        assert answer.status_code == 200, answer.text
        verdicts = {v["question_id"]: v["p_yes"] for v in answer.json()["verdicts"]}
        semantic = np.mean([p for key, p in verdicts.items() if key != "q0"])
        assert answer.json()["reward"] == pytest.approx(np.sqrt(semantic * verdicts["q0"]))
        broken = await http.post("/v1/verify", json={**body, "image": "aGVsbG8="})
        assert broken.status_code == 422  # no field of that name: prompt
        assert (await http.get("/docs")).status_code == 200
    over_http = connect_verifier(url=_url(config))
    direct = connect_verifier()
    assert await over_http.verify(_picture(0), QUESTIONS) == await direct.verify(
        _picture(0), QUESTIONS
    )


async def test_the_engines_own_metrics_are_there_while_they_are_idle(config):
    await connect_verifier().verify(_picture(3), QUESTIONS)
    with contextlib.suppress(NoQuestions):
        await connect_decomposer().decompose(Prompt(id="p", text="a red circle"))
    judges = {str(miniature(name, config.parent)) for name in ("decomposer", "verifier")}

    def engines(series: dict[Series, float], name: str) -> set[str]:
        return {dict(labels)["model_name"] for own, labels in series if own == name}

    def complete(series: dict[Series, float]) -> bool:
        shown = ("ray_vllm_num_requests_running", "ray_vllm_request_success_total")
        return all(judges <= engines(series, name) for name in shown)

    url = metrics_url()
    first = scrape_until(url, complete, 60.0)
    assert complete(first)
    await asyncio.sleep(6 * METRICS_REPORT_MS / 1000)
    second = scrape(url)
    assert {
        series for series in set(first) - set(second) if series[0].startswith("ray_vllm")
    } == set()


async def test_calls_survive_the_death_of_the_only_replicas_engine(config):
    client = connect_verifier(deadline_s=300.0)
    await client.verify(_picture(2), QUESTIONS)
    (pid,) = _verifier_pids()
    replica = psutil.Process(pid)
    calls = [asyncio.create_task(client.verify(_picture(i), QUESTIONS)) for i in range(100, 200)]
    # Killed in mid-work: some calls are answered, some run, some wait for a slot.
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    for engine in _engines_of(replica):
        engine.kill()
    await asyncio.to_thread(replica.wait, 60)
    answers = await asyncio.gather(*calls)
    assert all(len(verdicts) == len(QUESTIONS) for verdicts in answers)
    assert client.stats.failed == 0
    assert client.stats.retries > 0
    assert _verifier_pids() != [pid]


async def _lose_a_replica() -> None:
    """One of two is killed: its engine does not outlive it, whatever it holds."""
    replica = psutil.Process(_verifier_pids()[0])
    engines = _engines_of(replica)
    replica.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, engines, 30)
    assert not alive, "the dead replica's engine still holds its memory"


async def test_replicas_change_and_die_under_traffic_without_a_failed_call(config):
    client = connect_verifier(deadline_s=240.0)
    done = asyncio.Event()

    async def stream() -> int:
        asked = 0
        while not done.is_set():
            await client.verify(_picture(1000 + asked), QUESTIONS)
            asked += 1
            await asyncio.sleep(0.02)
        return asked

    traffic = [asyncio.create_task(stream()) for _ in range(2)]
    for replicas in (2, 1):
        raw = yaml.safe_load(config.read_text())
        next(app for app in raw["applications"] if app["name"] == "verifier")["deployments"][0][
            "num_replicas"
        ] = replicas
        config.write_text(yaml.safe_dump(raw))
        await asyncio.to_thread(redeploy, load_serve_file(config))
        await asyncio.to_thread(_wait_for_replicas, replicas)
        if replicas == 2:
            await _lose_a_replica()
    done.set()
    asked = sum(await asyncio.gather(*traffic))
    assert asked > 10
    assert client.stats.failed == 0
