"""`ray_cluster.yaml` against Ray's own schema, and the promises its comments make."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from alphagrpo.capacity import Node, Role
from alphagrpo.config import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> dict:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text(encoding="utf-8"))


def test_cluster_file_is_valid_under_rays_schema(cluster: dict) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"


def test_schema_refuses_a_typo(cluster: dict) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(ValidationError):
        validate_config({**cluster, "idle_timeout_minuts": 15})


def test_every_role_has_a_pool_label(cluster: dict) -> None:
    pools = {
        name: node["labels"]["mesh.pool"] for name, node in cluster["available_node_types"].items()
    }
    assert pools == {name: name for name in ("head", "learner", "rollout", "verifier")}


def test_learner_is_never_preempted(cluster: dict) -> None:
    market = {
        name: node["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        for name, node in cluster["available_node_types"].items()
    }
    assert market["rollout"] == "spot"
    assert market["learner"] is None


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_token_authentication_is_on_everywhere(cluster: dict, commands: str) -> None:
    start = [line for line in cluster[commands] if "ray start" in line]
    assert start
    assert all("RAY_AUTH_MODE=token" in line for line in start)
    assert "~/.ray/auth_token" in cluster["file_mounts"]


@pytest.mark.parametrize("name", ["bagel-7b-rt2i", "bagel-7b-srr"])
def test_a_stopped_job_has_the_grace_that_its_run_counts_on(cluster: dict, name: str) -> None:
    (start,) = [line for line in cluster["head_start_ray_commands"] if "ray start" in line]
    wait_s = int(re.findall(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+)", start)[0])
    grace_s = load_config(ROOT / f"deploy/configs/{name}.yaml").training.grace_s
    assert 20.0 <= wait_s - grace_s <= 60.0, "to end actors and to write the last report"
    assert grace_s > 4.3 * 60, "a step, by the dry run"


def test_dashboard_stays_on_loopback(cluster: dict) -> None:
    assert any("--dashboard-host=127.0.0.1" in line for line in cluster["head_start_ray_commands"])


def test_the_gateways_token_is_set_where_the_gateway_runs(cluster: dict) -> None:
    """Its Serve files name a variable; on a head without it the gateway does not start."""
    raw = yaml.safe_load((ROOT / "deploy/serve/bagel-7b.yaml").read_text(encoding="utf-8"))
    (gateway,) = [app for app in raw["applications"] if app["name"] == "gateway"]
    (deployment,) = gateway["deployments"]
    selector = deployment["ray_actor_options"]["label_selector"]
    head = Node(cpus=8, gpus=0, labels=cluster["available_node_types"]["head"]["labels"])
    worker = Node(cpus=8, gpus=0, labels={"mesh.pool": "verifier"})
    role = Role(name="gateway", count=1, cpus=1, gpus=0, selector=selector)
    assert head.admits(role)
    assert not worker.admits(role)
    variable = gateway["args"]["token_variable"]
    (start,) = [line for line in cluster["head_start_ray_commands"] if "ray start" in line]
    assert f"{variable}=$(cat ~/.alphagrpo/gateway_token)" in start
    assert "~/.alphagrpo/gateway_token" in cluster["file_mounts"]


def test_every_container_sees_the_storage_that_the_configs_name(
    cluster: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = cluster["docker"]["run_options"]
    (set_to,) = [option for option in options if option.startswith("--env=ALPHAGRPO_STORAGE=")]
    folder = set_to.rsplit("=", 1)[1]
    assert f"--volume={folder}:{folder}" in options
    assert any(folder in command for command in cluster["initialization_commands"])
    monkeypatch.delenv("ALPHAGRPO_STORAGE", raising=False)
    config = load_config(ROOT / "deploy/configs/bagel-7b-rt2i.yaml")
    assert config.output.is_relative_to(folder), "also where the variable is not set"


def test_nodes_run_an_image_and_install_nothing(cluster: dict) -> None:
    assert "setup_commands" not in cluster
    image = cluster["docker"]["image"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "version"
    ]
    assert image.endswith(f"alphagrpo-mesh:{version}-gpu")


def test_the_pool_of_the_judges_holds_what_they_may_scale_to(cluster: dict) -> None:
    from alphagrpo.cli.placement import serve_roles
    from services.serve_config import read_serve_file

    roles = serve_roles(read_serve_file(ROOT / "deploy/serve/bagel-7b.yaml"))
    kinds = cluster["available_node_types"]
    pool = kinds["verifier"]["max_workers"] * kinds["verifier"]["resources"]["GPU"]
    assert pool >= sum(role.largest * role.gpus for role in roles) + 1, "one is replaced by surging"
    assert cluster["max_workers"] >= sum(kind["max_workers"] for kind in kinds.values())
