"""Serve configs: strict reading, our own files, and paths from the project root."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from alphagrpo.errors import CheckpointError, ConfigError
from services.paths import ROOT_VARIABLE, check_model, project_root, resolve_model
from services.serve_config import load_serve_file, read_serve_file

SERVE = project_root() / "deploy" / "serve"
PLAIN: dict[str, Any] = {
    "http_options": {"host": "127.0.0.1"},
    "applications": [
        {
            "name": "gateway",
            "import_path": "services.gateway:build",
            "args": {},
            "deployments": [{"name": "Gateway", "ray_actor_options": {"num_cpus": 0.1}}],
        }
    ],
}


def _write(folder: Path, config: Any) -> Path:
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_plain_config_is_read(tmp_path):
    serve_file = load_serve_file(_write(tmp_path, PLAIN))
    assert serve_file.applications == ("gateway",)
    assert serve_file.http_port == 8000
    assert serve_file.raw == PLAIN


def _with(*path: Any, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(PLAIN)
    node: Any = config
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (_with("aplications", value=[]), "aplications"),
        (_with("http_options", "hots", value="x"), "http_options.hots"),
        (_with("applications", 0, "route", value="/"), r"applications\[0\].route"),
        (_with("applications", 0, "deployments", 0, "replicas", value=2), "replicas"),
        (
            _with("applications", 0, "deployments", 0, "ray_actor_options", "cpus", value=1),
            "ray_actor_options.cpus",
        ),
        (
            _with("applications", 0, "deployments", 0, "autoscaling_config", value={"most": 2}),
            "autoscaling_config.most",
        ),
        (_with("applications", 0, "args", "tokn", value="x"), "tokn"),
        (_with("applications", 0, "deployments", 0, "num_replicas", value=-1), "num_replicas"),
        (_with("applications", 0, "import_path", value="services.gateway:biuld"), "biuld"),
        (_with("applications", value=[]), "at least one"),
        ([], "mapping"),
        ("{", "mapping"),
    ],
)
def test_what_ray_would_let_pass_is_refused(tmp_path, config, message):
    with pytest.raises(ConfigError, match=message):
        load_serve_file(_write(tmp_path, config))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml does not"):
        load_serve_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "name",
    ["shapes.yaml", "shapes-generator.yaml", "bagel-7b.yaml", "bagel-7b-generator.yaml"],
)
def test_our_own_files_are_valid_and_stay_at_home(name, monkeypatch, tmp_path):
    for model in ("decomposer", "verifier"):
        folder = tmp_path / "deploy" / "models" / model
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    # The generator's file names a run config, which is found from the root like the models.
    (tmp_path / "deploy" / "configs").symlink_to(SERVE.parent / "configs")
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    config = load_serve_file(SERVE / name).schema
    assert isinstance(config, ServeDeploySchema)
    assert config.http_options.host == "127.0.0.1"
    routes = {app.name: app.route_prefix for app in config.applications}
    generator = {"generator": None} if "generator" in name else {}
    assert routes == {"decomposer": None, "verifier": None, "gateway": "/", **generator}


@pytest.mark.parametrize(
    "name",
    ["shapes.yaml", "shapes-generator.yaml", "bagel-7b.yaml", "bagel-7b-generator.yaml"],
)
def test_our_own_deployments_start_the_new_replica_before_the_old_one_stops(name):
    for app in read_serve_file(SERVE / name).schema.applications:
        for deployment in app.deployments:
            config = deployment.autoscaling_config
            most = config["max_replicas"] if isinstance(config, dict) else 1
            more = math.ceil(deployment.max_surge_percent * most / 100)
            assert more == 1, f"{app.name}: {more} replicas more than {most}"


@pytest.mark.parametrize("name", ["bagel-7b.yaml", "bagel-7b-generator.yaml"])
def test_a_window_is_longer_than_what_serve_looks_back_on(name):
    apps = {app.name: app for app in read_serve_file(SERVE / name).schema.applications}
    for judge in ("decomposer", "verifier"):
        config = AutoscalingConfig(**apps[judge].deployments[0].autoscaling_config)
        policy = config.policy.get_policy()(**config.policy.policy_kwargs)
        assert policy.window_s > config.look_back_period_s
        assert policy.target > policy.work_per_request


TWO: dict[str, Any] = {
    "http_options": {"host": "127.0.0.1", "port": 8123},
    "applications": [
        {**PLAIN["applications"][0], "name": "b", "route_prefix": "/b", "args": {"tokn": 1}},
        {**PLAIN["applications"][0], "name": "a", "route_prefix": "/a"},
    ],
}


def test_the_chosen_applications_alone_are_checked_and_passed_on(tmp_path):
    path = _write(tmp_path, TWO)
    serve_file = load_serve_file(path, ["a"])
    assert serve_file.applications == ("a",)
    assert [app.route_prefix for app in serve_file.schema.applications] == ["/a"]
    assert [app["name"] for app in serve_file.raw["applications"]] == ["a"]
    assert serve_file.http_port == 8123
    assert read_serve_file(path).only(["a", "b"]).applications == ("a", "b")
    with pytest.raises(ConfigError, match="tokn"):
        load_serve_file(path)
    with pytest.raises(ConfigError, match=r"application 'judge', it has b, a; check services"):
        load_serve_file(path, ["judge"])


def test_builders_of_others_are_left_to_the_cluster(tmp_path):
    path = _write(tmp_path, _with("applications", 0, "import_path", value="theirs.app:build"))
    assert load_serve_file(path).applications == ("gateway",)


def test_a_missing_model_is_named_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setattr("alphagrpo.shipped._PACKAGE", tmp_path / "alphagrpo")
    with pytest.raises(CheckpointError, match="deploy/models/decomposer"):
        load_serve_file(SERVE / "shapes.yaml")


def test_models_are_found_from_the_project_root(monkeypatch, tmp_path):
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    (tmp_path / "models" / "judge").mkdir(parents=True)
    assert resolve_model("models/judge") == str(tmp_path / "models" / "judge")
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    assert resolve_model("Qwen/Qwen3-VL-30B-A3B-Instruct") == "Qwen/Qwen3-VL-30B-A3B-Instruct"
    with pytest.raises(CheckpointError, match="hub id"):
        resolve_model("models/other")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        check_model("models/judge")
    check_model("/only/on/another/node")
    (shipped := tmp_path / "site" / "alphagrpo" / "deploy/models/judge").mkdir(parents=True)
    monkeypatch.setattr("alphagrpo.shipped._PACKAGE", tmp_path / "site" / "alphagrpo")
    assert resolve_model("deploy/models/judge") == str(shipped), "not in the root, but shipped"


def test_the_project_root_is_the_checkout_or_where_the_process_works(monkeypatch, tmp_path):
    assert project_root() == Path(__file__).parents[2]
    (tmp_path / "alphagrpo/deploy").mkdir(parents=True)
    monkeypatch.setattr("alphagrpo.shipped._PACKAGE", tmp_path / "alphagrpo")
    monkeypatch.chdir(tmp_path)
    assert project_root() == tmp_path, "a wheel has no checkout"
