from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alphagrpo.cli import prechecks
from alphagrpo.cli.launch import check_reward, precheck
from alphagrpo.cli.main import main
from alphagrpo.cli.placement import placement_of
from alphagrpo.cli.ray_session import address_to_join
from alphagrpo.config import RunConfig, load_config
from alphagrpo.errors import CheckpointError, ConfigError, EnvironmentProblem, PromptFileError
from alphagrpo.models.bagel import random_bagel, save_bagel, tiny_config
from alphagrpo.policy.family import FAMILY
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


def test_too_little_memory_is_said_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    config = make_config(rollout={"num_runners": 2})
    placement = placement_of(config, None)
    free = SimpleNamespace(available=2 * prechecks.GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(EnvironmentProblem, match=r"needs about 3\.0 GiB.*2\.0 GiB are free"):
        prechecks.check_memory(config, placement, model_bytes=0)
    free.available = 64 * prechecks.GIB
    assert (
        prechecks.check_memory(config, placement, 5) - prechecks.check_memory(config, placement, 0)
        == 5
    )


def test_a_port_in_use_is_named_with_its_remedy() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=f"port {port}.*serve shutdown"):
            prechecks.check_port(port, "Serve's HTTP proxy")
    prechecks.check_port(port, "Serve's HTTP proxy")


def test_ray_address_decides_and_a_foreign_cluster_is_not_joined_unasked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prechecks, "running_clusters", lambda: ("10.0.0.1:6379",))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    assert address_to_join() == "10.0.0.9:6379"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert address_to_join() is None
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(EnvironmentProblem, match=r"RAY_ADDRESS=10\.0\.0\.1:6379.*ray stop"):
        address_to_join()
    monkeypatch.setattr(prechecks, "running_clusters", lambda: ())
    assert address_to_join() is None


def test_the_shipped_serve_file_and_the_demo_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(ROOT / "deploy/configs/shapes-rt2i.yaml")
    serve_file = load_serve_file(config.services.serve_config)
    placement = placement_of(config, serve_file)
    names = {role.name for role in placement.roles}
    assert {"serve decomposer/Decomposer", "serve verifier/Verifier"} <= names
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
