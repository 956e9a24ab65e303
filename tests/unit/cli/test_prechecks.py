from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alphagrpo.cli import prechecks
from alphagrpo.cli.launch import check_reward, precheck
from alphagrpo.cli.main import main
from alphagrpo.cli.placement import placement_of
from alphagrpo.cli.prechecks import GIB
from alphagrpo.config import RunConfig, load_config
from alphagrpo.errors import CheckpointError, ConfigError, EnvironmentProblem, PromptFileError
from alphagrpo.models.bagel import random_bagel, save_bagel, tiny_config
from alphagrpo.policy.family import FAMILY
from alphagrpo.policy.memory import (
    MemoryEstimate,
    memory_estimate,
    model_size,
    object_store_bytes,
)
from alphagrpo.policy.working import DrawingSpace, LearningSpace
from services.serve_config import load_serve_file
from tests.fakes import make_config

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_bagel(random_bagel(tiny_config(), 0), folder)
    return folder


@pytest.fixture
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray runs here and every port is free, whatever else this machine does."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(prechecks, "running_clusters", lambda: ())
    monkeypatch.setattr(prechecks, "check_port", lambda port, what: None)
    monkeypatch.setattr("alphagrpo.cli.ray_session.check_port", lambda port, what: None)


def config_for(model: Path, output: Path, /, **sections: Any) -> RunConfig:
    prompts = output / "prompts.txt"
    prompts.write_text("a red circle\n", encoding="utf-8")
    data = {"train": str(prompts), "heldout": str(prompts)}
    task = {"height": 32, "width": 32}
    return make_config(
        **{
            "model": {"path": str(model)},
            "output": str(output),
            "data": data,
            "task": task,
            **sections,
        }
    )


def test_a_good_run_passes_and_leaves_nothing_behind(
    model_folder: Path, tmp_path: Path, quiet_machine: None
) -> None:
    config = config_for(model_folder, tmp_path)
    plan = precheck(config, resume=False)
    assert plan.address is None
    assert not config.folder.exists()


def test_everything_wrong_is_found_before_anything_starts(
    model_folder: Path, tmp_path: Path, quiet_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**sections: Any) -> RunConfig:
        return config_for(model_folder, tmp_path, **sections)

    with pytest.raises(ConfigError, match="multiple of 16"):
        precheck(refuse(task={"height": 40, "width": 32}), resume=False)
    with pytest.raises(CheckpointError, match="nowhere"):
        precheck(refuse(model={"path": "nowhere"}), resume=False)
    with pytest.raises(PromptFileError, match="must exist"):
        precheck(refuse(data={"train": "no.txt", "heldout": "no.txt"}), resume=False)
    with pytest.raises(ConfigError, match="must exist"):
        precheck(refuse(services={"serve_config": "no.yaml"}), resume=False)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        precheck(refuse(), resume=True)
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match="already holds one"):
        precheck(refuse(), resume=False)


@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors"])
def test_truncated_weights_are_found_without_reading_them(
    model_folder: Path, tmp_path: Path, name: str
) -> None:
    for path in model_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    FAMILY.check(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for size in (len(whole) - 1, 100, 4, 0):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=f"{name} must be"):
            FAMILY.check(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match="needs"):
        FAMILY.check(tmp_path)


NOTHING_DRAWN = DrawingSpace(context=0, buffers=0, thinking=0, denoising=0, decoding=0)


def estimate_of(config: RunConfig) -> MemoryEstimate:
    return memory_estimate(config, *model_size(config))


def test_too_little_memory_is_said_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    config = make_config(rollout={"num_runners": 2}, model={"path": "nowhere"})
    sizes = replace(
        estimate_of(config), weights=GIB, rank_weights=GIB, masters=0, gradients=0, optimizer=0,
        trainable=0, drawing=NOTHING_DRAWN, learning=LearningSpace(context=0, activations=0),
    )  # fmt: skip
    free = SimpleNamespace(available=5 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    placement = placement_of(config, None)
    with pytest.raises(EnvironmentProblem, match=r"needs about 6\.4 GiB.*5\.0 GiB are free"):
        prechecks.check_memory(config, placement, sizes, prechecks.STORE_BYTES)
    free.available = 64 * GIB
    larger = prechecks.check_memory(config, placement, sizes, prechecks.STORE_BYTES + 5)
    assert larger - prechecks.check_memory(config, placement, sizes, prechecks.STORE_BYTES) == 5


def test_what_lies_on_a_gpu_takes_no_main_memory() -> None:
    """Eight cards on one machine: their 470 GB were once asked of its main memory."""
    config = load_config(
        ROOT / "deploy/configs/bagel-7b-rt2i.yaml", ["rollout.num_runners=7", "learner.ranks=1"]
    )
    placement, sizes = placement_of(config, None), estimate_of(config)
    on_gpus = prechecks.host_bytes(config, placement, sizes)
    assert 8 * prechecks.GPU_PROCESS_BYTES < on_gpus < 40 * GIB
    overrides = ["rollout.gpus_per_runner=0", "learner.gpus=0", "rollout.num_runners=7"]
    overrides += ["learner.ranks=1"]
    on_cpu = load_config(ROOT / "deploy/configs/bagel-7b-rt2i.yaml", overrides)
    held = prechecks.host_bytes(on_cpu, placement_of(on_cpu, None), sizes)
    assert held > sizes.learner + 7 * sizes.runner


def test_every_rank_is_counted_and_a_runner_that_learns_once() -> None:
    def held(**sections: Any) -> tuple[int, MemoryEstimate]:
        config = make_config(rollout={"num_runners": 3}, **sections)
        sizes = estimate_of(config)
        return prechecks.host_bytes(config, placement_of(config, None), sizes), sizes

    process = prechecks.PROCESS_BYTES
    others = []
    for ranks in (2, 3):
        whole, sizes = held(learner={"ranks": ranks})
        others.append(whole - ranks * (process + sizes.learner) - 3 * (process + sizes.runner))
    whole, sizes = held(learner={"placement": "runners"})
    others.append(whole - 3 * (process + sizes.shared))
    assert others[0] == others[1] == others[2] > 0


def test_the_object_store_of_a_private_cluster_holds_the_run() -> None:
    """300 MiB were once given to a 7B step that has 3 GB there."""
    config = load_config(ROOT / "deploy/configs/bagel-7b-rt2i.yaml")
    sizes = estimate_of(config)
    store = object_store_bytes(config, sizes)
    assert store > 3 * sizes.trainable * 4 + sizes.trajectories_per_step > 2.9e9
    lagged = config.model_copy(update={"rollout": config.rollout.model_copy(update={"max_lag": 1})})
    more = object_store_bytes(lagged, sizes) - store
    assert more == pytest.approx(1.25 * (sizes.trainable * 4 + sizes.trajectories_per_step), abs=2)


def test_what_a_job_writes_outlives_it(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_machine: None
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = config_for(model_folder, tmp_path).model_copy(update={"output": Path("runs")})
    prechecks.check_written_paths(relative)
    monkeypatch.setenv(prechecks.JOB_VARIABLE, "{}")
    with pytest.raises(ConfigError, match=r"output must be an absolute .* got runs.*--set output="):
        precheck(relative, resume=False)
    inside = relative.model_copy(update={"output": tmp_path / "runs"})
    with pytest.raises(ConfigError, match="go with the job"):
        prechecks.check_written_paths(inside)
    shared = relative.model_copy(update={"output": Path("/shared/runs")})
    prechecks.check_written_paths(shared)
    services = shared.services.model_copy(update={"question_store": Path("questions")})
    with pytest.raises(ConfigError, match=r"services\.question_store must be an absolute path"):
        prechecks.check_written_paths(shared.model_copy(update={"services": services}))


def test_a_port_in_use_is_named_with_its_remedy() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=f"port {port}.*serve shutdown"):
            prechecks.check_port(port, "Serve's HTTP proxy")
    prechecks.check_port(port, "Serve's HTTP proxy")


def test_the_shipped_serve_file_and_the_demo_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(ROOT / "deploy/configs/shapes-rt2i.yaml")
    serve_file = load_serve_file(config.services.serve_config, config.services.applications)
    placement = placement_of(config, serve_file)
    names = {role.name for role in placement.roles}
    services = {name for name in names if name.startswith("serve ")}
    assert services == {"serve decomposer/Decomposer", "serve verifier/Verifier"}
    assert placement.cpus <= 2, "the demo is meant for two cores"
    assert serve_file.http_port == 8000


def test_doctor_finds_things_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) in (0, 1)
    shown = capsys.readouterr().out
    for name in ("torch", "ray", "cores", "free memory", "port 8000", "model policy"):
        assert name in shown


def test_a_reward_that_cannot_be_imported_is_found_before_anything_starts() -> None:
    check_reward(make_config(reward={"program": "holistic"}))
    with pytest.raises(ConfigError, match="PYTHONPATH"):
        check_reward(make_config(reward={"program": "no_such_package.reward:Mine"}))
    with pytest.raises(ConfigError, match="name, questions and score"):
        check_reward(make_config(reward={"program": "collections:Counter"}))
