"""A wrong Serve file is refused by `train` and by its dry run, before anything is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from alphagrpo.cli import launch, prechecks
from alphagrpo.cli.console import Narrator
from alphagrpo.cli.main import main
from alphagrpo.cli.stopping import StopSwitch
from alphagrpo.cli.training import _with_mesh
from alphagrpo.config import load_config
from alphagrpo.models.bagel import random_bagel, save_bagel, tiny_config
from tests.fakes import make_config

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_bagel(random_bagel(tiny_config(), 0), folder)
    return folder


@pytest.fixture
def run_config(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run over a tiny model and ``serve.yaml`` beside it, on a machine where no Ray runs."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(prechecks, "running_clusters", lambda: ())
    monkeypatch.setattr("alphagrpo.cli.training.ray_session", refuse_to_start)
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a red circle\n", encoding="utf-8")
    config = make_config(
        model={"path": str(model_folder)},
        output=str(tmp_path / "runs"),
        data={"train": "prompts.txt", "heldout": "prompts.txt"},
        services={"serve_config": "serve.yaml"},
    )
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    return path


def refuse_to_start(*args: Any, **options: Any) -> None:
    raise AssertionError("nothing may be started")


HERE = {"host": "127.0.0.1"}


def write_serve(**changes: Any) -> None:
    """A file with both services and an application that no run asks; the verifier is changed."""
    decomposer = {"name": "decomposer", "import_path": "theirs:build", "route_prefix": None}
    unused = {"name": "unused", "import_path": "services.nothing:build", "route_prefix": "/unused"}
    verifier: dict[str, Any] = {
        "name": "verifier",
        "import_path": "services.gateway:build",
        "args": {},
        "deployments": [{"name": "Gateway", "ray_actor_options": {"num_cpus": 0.1}}],
        **changes,
    }
    # A gateway without a token is for this machine alone.
    document = {"http_options": HERE, "applications": [decomposer, unused, verifier]}
    text = yaml.safe_dump(document)
    Path("serve.yaml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"deployments": [{"name": "Gateway", "num_replica": 2}]}, "deployments[0].num_replica"),
        ({"import_path": "services.gateway:biuld"}, "biuld"),
        ({"import_path": "services.gatewai:build"}, "gatewai"),
        ({"args": {"tokn": "x"}}, "tokn"),
    ],
)
def test_a_wrong_file_is_refused(
    run_config: Path,
    capsys: pytest.CaptureFixture[str],
    dry: bool,
    changes: dict[str, Any],
    words: str,
) -> None:
    write_serve(**changes)
    assert main(["train", str(run_config), *(["--dry-run"] if dry else [])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert not Path("runs").exists()


def test_a_file_without_what_the_run_asks_is_refused(
    run_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_serve(name="judge")
    assert main(["train", str(run_config)]) == 2
    assert "must have the application 'verifier'" in capsys.readouterr().err


def test_a_missing_file_is_refused_by_a_run_and_noted_by_a_dry_one(
    run_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(run_config)]) == 2
    assert "the Serve config must exist, serve.yaml does not" in capsys.readouterr().err
    assert main(["train", str(run_config), "--dry-run"]) == 0
    assert "serve.yaml does not exist here: Serve replicas unknown" in capsys.readouterr().out


def test_a_model_that_is_elsewhere_is_refused_by_a_run_and_noted_by_a_dry_one(
    run_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_serve(
        import_path="services.verifier:build",
        args={"engine": {"model": "deploy/models/nowhere"}},
        deployments=[{"name": "Verifier", "num_replicas": 2}],
    )
    assert main(["train", str(run_config)]) == 2
    assert "deploy/models/nowhere" in capsys.readouterr().err
    assert main(["train", str(run_config), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "note: Serve application verifier: a served model is a folder" in printed
    assert "serve verifier/Verifier" in printed


def test_the_file_is_read_once_and_passed_on(
    run_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prechecks, "check_port", lambda port, what: None)
    monkeypatch.setattr(launch, "check_ports", lambda port: None)
    monkeypatch.setattr(prechecks, "check_memory", lambda *sizes: 0)
    write_serve()
    checked = launch.precheck(load_config(run_config), resume=False)
    assert checked.serve_file is not None
    assert checked.serve_file.applications == ("decomposer", "verifier"), "a run waits for no more"
    names = [role.name for role in checked.placement.replicas]
    assert names == ["serve decomposer/default", "serve verifier/Gateway"]
    Path("serve.yaml").unlink()

    class Deployed(Exception):
        pass

    def deployed(serve_file: Any, narrator: Any, session: Any) -> None:
        assert serve_file is checked.serve_file
        raise Deployed

    class Session:
        private, dashboard = True, ""

        def __enter__(self) -> Session:
            return self

        def __exit__(self, *error: object) -> None:
            return None

    monkeypatch.setattr("alphagrpo.cli.training.ray_session", lambda *args, **options: Session())
    monkeypatch.setattr("alphagrpo.cli.training.deployed", deployed)
    monkeypatch.setattr("actors.cluster.check_room", lambda config: None)
    stop = StopSwitch()
    with stop.armed(), pytest.raises(Deployed):
        _with_mesh(load_config(run_config), checked, Narrator(), stop)


def test_checking_the_services_loads_no_engine_and_starts_nothing() -> None:
    code = f"""
import sys
from pathlib import Path
from services.serve_config import load_serve_file
load_serve_file(Path({str(ROOT / "deploy/serve/shapes.yaml")!r}))
import ray
assert not ray.is_initialized()
print(" ".join(sys.modules))
"""
    environment = {**os.environ, "ALPHAGRPO_ROOT": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "vllm", "transformers", "diffusers"}
