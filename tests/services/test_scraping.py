"""The real exporter, scraped twice: what is there at the first time is there at the second.

The cluster of the tests reports every two seconds, so its exporter forgets a gauge after four; the
second scrape comes three times as late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import yaml

from actors.metrics import STEP_GAUGES, RunnerGauges, StepGauges
from alphagrpo.cli.listeners import ray_listeners
from alphagrpo.ports import Sample, Timings
from alphagrpo.rollout.runner import RolloutResult
from alphagrpo.types import Group, Question
from benchmarks.scraping import Series, metrics_url, parse, scrape, scrape_until
from services.client import connect_verifier
from services.deploying import ensure_deployed
from services.metrics import FAILURES
from services.serve_config import read_serve_file
from tests.conftest import METRICS_REPORT_MS
from tests.fakes import make_config, make_job, make_prompts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

FORGOTTEN_S = 2 * METRICS_REPORT_MS / 1000
"""Ray drops a gauge that was not set for two report intervals."""
RUN = "scraped"


@pytest.fixture(scope="module")
def verifier(mesh_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A stand-in verifier; the name of its application."""
    from ray import serve

    app = {
        "name": "scraped",
        "route_prefix": None,
        "import_path": "benchmarks.stand_in:build",
        "args": {"start_s": 0.0, "picture_s": 0.01},
        "deployments": [{"name": "Verifier", "ray_actor_options": {"num_cpus": 0.1}}],
    }
    path: Path = tmp_path_factory.mktemp("serve") / "stand-in.yaml"
    path.write_text(yaml.safe_dump({"applications": [app]}))
    serve_file = read_serve_file(path)
    serve_file.schema.proxy_location = "Disabled"
    ensure_deployed(serve_file)
    yield "scraped"
    serve.shutdown()


def names(series: dict[Series, float], **labels: str) -> set[str]:
    return {
        name.removeprefix("ray_")
        for name, own in series
        if all((key, value) in own for key, value in labels.items())
    }


def finished_group() -> RolloutResult:
    return RolloutResult(
        group=Group(job=make_job(make_prompts(1)[0], make_config()), trajectories=()),
        samples=(Sample(id="s", thought="", score=None, reward=0.5),),
        timings=Timings(sample_s=2.0, verify_s=1.0, pull_s=0.5),
    )


async def test_every_series_is_there_at_the_second_scrape(verifier: str) -> None:
    url = metrics_url()
    fresh = scrape_until(
        url, lambda series: "alphagrpo_verifier_questions_total" in names(series), 60.0
    )
    failures = [
        value
        for (name, labels), value in fresh.items()
        if name == "ray_alphagrpo_verifier_failures_total" and ("run", "none") in labels
    ]
    assert failures == [0.0] * len(FAILURES), "counters are there before anything is counted"

    steps, runner = StepGauges(RUN), RunnerGauges(RUN, "rollout-0")
    steps.observe({key: float(index) for index, key in enumerate(STEP_GAUGES)})
    runner.observe(finished_group(), 3)
    question = Question(id="s0", text="is there a fox ?", kind="semantic", tag="Existence")
    client = connect_verifier(app=verifier, run=RUN)
    await client.verify(np.zeros((8, 8, 3), np.uint8), [question] * 1)

    drivers = {name for name, _ in STEP_GAUGES.values()}
    runners = {f"alphagrpo_rollout_{n}" for n in ("draw_seconds", "weights_version")}
    services = {f"alphagrpo_verifier_{n}" for n in ("pending_questions", "questions_total")}
    wanted = drivers | runners | services | {"alphagrpo_verifier_latency_seconds_bucket"}
    first = scrape_until(url, lambda series: wanted <= names(series, run=RUN), 60.0)
    assert wanted - names(first, run=RUN) == set()

    await asyncio.sleep(3 * FORGOTTEN_S)
    second = scrape(url)
    assert set(first) - set(second) == set()

    steps.close()
    gone = scrape_until(url, lambda series: not drivers & names(series, run=RUN), 60.0)
    assert drivers & names(gone, run=RUN) == set(), "a run that has ended shows no figures"
    assert runners <= names(gone, run=RUN)


def test_an_exposition_is_read_without_rays_own_labels() -> None:
    text = (
        "# TYPE ray_alphagrpo_x gauge\n"
        'ray_alphagrpo_x{Component="core_worker",WorkerId="1",otel_scope_name="o",run="a b"} 1.5\n'
        "ray_vllm_y_total 3.0\n"
        'ray_serve_z{run="a"} 1.0\n'
    )
    assert parse(text) == {
        ("ray_alphagrpo_x", (("run", "a b"),)): 1.5,
        ("ray_vllm_y_total", ()): 3.0,
    }


def test_of_a_private_cluster_only_replicas_are_reached_from_elsewhere(verifier: str) -> None:
    """As docs/security.md has it: by one port each, which asks for the token first."""
    listeners = ray_listeners([psutil.Process()])
    seen = {one.process for one in listeners}
    assert {"gcs_server", "raylet", "DashboardAgent", "ServeController"} <= seen, "or none is seen"
    reachable = [one for one in listeners if one.is_open]
    assert [one.process.split(":")[:2] for one in reachable] == [["ServeReplica", verifier]]
    with grpc.insecure_channel(f"127.0.0.1:{reachable[0].port}") as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=60.0)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
