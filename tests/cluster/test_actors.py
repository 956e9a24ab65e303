"""Real Ray actors with a tiny BAGEL: what survives a death, and the RLlib front door."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.mesh import Mesh
from actors.parts import Part, actor_name
from actors.run import MeshRun, decomposer_client, verifier_client
from alphagrpo import deadlines as deadlines_module
from alphagrpo.config import RunConfig
from alphagrpo.errors import CheckpointError, ConfigError, EnvironmentProblem, LearnerLost
from alphagrpo.loop import StepReport, TrainingLoop
from alphagrpo.ports import PictureRequest
from alphagrpo.types import Prompt
from tests.fakes import FakeDecomposer, make_prompts
from tests.tiny_run import DECOMPOSER, VERIFIER, config_for, write_model, write_prompts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("data"))


def drawn(report: StepReport) -> list[Any]:
    """What must not depend on who drew it."""
    return [
        (g.job.prompt.id, [(s.id, s.thought, s.picture_hash, s.reward) for s in g.samples])
        for g in report.groups
    ]


def make_loop(mesh: Mesh, config: RunConfig) -> TrainingLoop:
    prompts = [Prompt(id=p.id, text=p.text) for p in make_prompts(7)]
    return TrainingLoop(
        config, prompts, decomposer=FakeDecomposer(), pool=mesh.pool, learner=mesh.learner
    )


@pytest.fixture
def mesh_of(mesh_cluster: str) -> Iterator[Any]:
    made: list[Mesh] = []

    def make(config: RunConfig) -> Mesh:
        made.append(Mesh(config, VERIFIER))
        return made[-1]

    yield make
    for mesh in made:
        mesh.close()


async def test_runner_killed_in_a_step_changes_nothing(mesh_of, model_folder, prompt_file) -> None:
    """One mesh loses a runner in its first step; another, of one runner, loses none."""
    calm_config = config_for("calm", model_folder, prompt_file)
    calm = mesh_of(calm_config)
    await calm.ready()
    loop = make_loop(calm, calm_config)
    expected = [drawn(await loop.run_step()) for _ in range(2)]
    version = (await loop.ensure_published()).checksum
    calm.close()

    config = config_for("rough", model_folder, prompt_file, num_runners=2)
    mesh = mesh_of(config)
    await mesh.ready()
    victim = (await mesh.pool.status())[0]
    loop = make_loop(mesh, config)
    step = asyncio.create_task(loop.run_step())
    await asyncio.sleep(0.05)
    os.kill(victim["pid"], signal.SIGKILL)
    reports = [await step, await loop.run_step()]

    assert [_renamed(drawn(report)) for report in reports] == [_renamed(e) for e in expected]
    assert (await loop.ensure_published()).checksum == version
    assert reports[0].metrics["parity/image_max_abs_log_ratio"] == 0.0
    async with asyncio.timeout(120):
        while mesh.pool.restarts == 0:  # noqa: ASYNC110 (another process comes back)
            await asyncio.sleep(0.2)
    pids = {status["pid"] for status in await mesh.pool.status()}
    assert len(pids) == 2
    assert victim["pid"] not in pids

    with pytest.raises(EnvironmentProblem, match="one run of a name"):
        Mesh(config, VERIFIER)
    requests = [PictureRequest(prompt=p, seed=1) for p in make_prompts(3)]
    pictures = await mesh.pool.draw(requests, reports[-1].version)
    assert [p.prompt.id for p in pictures] == [r.prompt.id for r in requests]
    assert {p.policy_version for p in pictures} == {2}

    os.kill((await mesh.learner.status())[0]["pid"], signal.SIGKILL)
    with pytest.raises(LearnerLost, match="--resume"):
        await loop.run_step()


def test_processes_that_stop_answering_are_replaced_and_change_nothing(
    mesh_cluster, model_folder, prompt_file, tmp_path, monkeypatch
) -> None:
    """A runner, the learner and the registry live on and say nothing, one after another."""
    monkeypatch.setattr(deadlines_module, "FIRST_WORD_S", 0.5)
    told: list[str] = []

    def run_of(name: str, **sections: Any) -> MeshRun:
        config = config_for(name, model_folder, prompt_file, num_runners=2, **sections)
        parts = {"decomposer": DECOMPOSER, "verifier": VERIFIER}
        return MeshRun(config, **parts, tell=told.append)

    with run_of("calm-one") as run:
        expected = [_renamed(drawn(run.step())) for _ in range(3)]
        checksum = run.manifest().checksum

    with run_of("silent", deadlines={"ping_s": 8.0}) as run:
        mesh, reports = run.mesh, {}
        processes = {
            "runner": run.wait_for(mesh.pool.status())[0]["pid"],
            "learner": run.wait_for(mesh.learner.status())[0]["pid"],
            "registry": pid_of("silent", "weights"),
        }
        for pid in processes.values():
            os.kill(pid, signal.SIGSTOP)
            report = run.step()
            reports[report.step] = report
            if pid == processes["runner"]:
                run.save(tmp_path / "checkpoint")
        while run.step_number < len(expected):
            report = run.step()
            reports[report.step] = report
        assert run.manifest().checksum == checksum
        assert pid_of("silent", "weights") != processes["registry"]
    assert [_renamed(drawn(reports[step])) for step in sorted(reports)] == expected
    assert any("waiting for rollout runner 0" in line for line in told)
    assert any("waiting for the central learner" in line for line in told)


def pid_of(run: str, role: str) -> int:
    from ray._private import state

    name = actor_name(run, role)
    return next(
        record["Pid"]
        for record in state.actors().values()
        if record["Name"] == name and record["State"] == "ALIVE"
    )


def _renamed(groups: list[Any]) -> list[Any]:
    """Without the run's name, which is part of a sample's id."""
    return [(p, [(i.split("/", 1)[1], *rest) for i, *rest in samples]) for p, samples in groups]


async def test_part_that_does_not_exist_stops_the_start(
    mesh_cluster, model_folder, prompt_file
) -> None:
    mesh = Mesh(config_for("broken", model_folder, prompt_file), Part("tests.fakes:no_such"))
    try:
        with pytest.raises((ConfigError, EnvironmentProblem), match="no_such"):
            await mesh.ready()
    finally:
        mesh.close()


def test_algorithm_trains_saves_restores_and_survives_its_learner(
    mesh_cluster, model_folder, prompt_file, tmp_path
) -> None:
    from actors.algorithm import AlphaGRPO, AlphaGRPOConfig

    config = AlphaGRPOConfig().mesh(
        run=config_for("front", model_folder, prompt_file),
        overrides={"optimizer.lr": 1e-3},
        decomposer=DECOMPOSER,
        verifier=VERIFIER,
    )
    algo = config.build_algo()
    try:
        assert algo.run_config.optimizer.lr == 1e-3
        result = algo.train()
        assert result["training_iteration"] == 1
        assert result["samples"]["trained"] == 12
        assert result["parity"]["image_max_abs_log_ratio"] == 0.0
        folder = algo.save_to_path(tmp_path / "checkpoint")
        assert not list(Path(folder).rglob("*.pkl"))
        algo.train()
        expected = drawn(algo.last_report)
        checksum = algo.ask(algo.run.loop.ensure_published()).checksum

        # The learner dies: the next train() goes back to the checkpoint and repeats step 2.
        os.kill(algo.ask(algo.run.mesh.learner.status())[0]["pid"], signal.SIGKILL)
        algo.train()
        assert algo.run.loop.step == 2
        assert drawn(algo.last_report) == expected
        assert algo.ask(algo.run.loop.ensure_published()).checksum == checksum
        assert algo.pictures([PictureRequest(prompt=make_prompts(1)[0], seed=0)])[0].pixels.any()
    finally:
        algo.stop()

    restored = AlphaGRPO.from_checkpoint(folder)
    try:
        assert restored.run_config.optimizer.lr == 1e-3
        result = restored.train()
        assert result["training_iteration"] == 2
        assert drawn(restored.last_report) == expected
        assert restored.ask(restored.run.loop.ensure_published()).checksum == checksum
    finally:
        restored.stop()

    (tmp_path / "checkpoint" / "mesh.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(CheckpointError, match="format"):
        AlphaGRPO.from_checkpoint(folder)


def test_config_needs_a_run_and_valid_overrides(model_folder, prompt_file) -> None:
    from actors.algorithm import AlphaGRPOConfig

    with pytest.raises(ConfigError, match=r"mesh\(run"):
        AlphaGRPOConfig().run_config()
    config = AlphaGRPOConfig().mesh(run=config_for("x", model_folder, prompt_file))
    with pytest.raises(ConfigError, match="no section"):
        config.mesh(overrides={"optimiser.lr": 1.0}).run_config()
    with pytest.raises(ConfigError, match="lr"):
        config.mesh(overrides={"optimizer.lr": -1.0}).run_config()
    assert config.mesh(overrides={}).parts() == (None, None)
    run = config.run_config()
    assert verifier_client(run).path == "services.client:connect_verifier"
    assert decomposer_client(run).arguments["question_store"] == str(run.folder / "questions")
    assert actor_name("x", "learner") == "alphagrpo:x:learner"
