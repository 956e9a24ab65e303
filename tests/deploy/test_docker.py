"""The image files, as far as they can be checked without building them."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from benchmarks import install
from benchmarks.install import Instruction

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "docker"
KINDS = ("cpu", "gpu")
LAUNCHER = {"rsync", "wget"}
"""What Ray's launcher and KubeRay run inside the container, beside bash."""


def instructions(kind: str) -> list[Instruction]:
    return install.instructions(FOLDER / f"Dockerfile.{kind}")


def final_stage(kind: str) -> list[Instruction]:
    return install.final_stage(FOLDER / f"Dockerfile.{kind}")


def arguments(found: list[Instruction], name: str) -> list[str]:
    return [value for instruction, value in found if instruction == name]


def environment(kind: str) -> dict[str, str]:
    pairs = " ".join(arguments(final_stage(kind), "ENV")).split()
    return dict(pair.split("=", 1) for pair in pairs)


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets the build see ``path``; its last rule that fits decides."""
    sent = True
    for rule in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = rule.lstrip("!")
        if rule and not rule.startswith("#"):
            fits = fnmatch(path, pattern) or any(
                fnmatch(str(parent), pattern) for parent in Path(path).parents if str(parent) != "."
            )
            sent = rule.startswith("!") if fits else sent
    return sent


@pytest.mark.parametrize("kind", KINDS)
def test_every_copied_file_exists_and_is_sent_to_the_build(kind: str) -> None:
    copied = [value.split()[:-1] for value in arguments(instructions(kind), "COPY")]
    sources = [source for group in copied for source in group]
    assert f"requirements/{kind}.txt" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert is_sent(source), source
    assert {"pyproject.toml", "setup.py", "LICENSE", "alphagrpo", "actors", "services"} <= {
        *sources
    }


def test_nothing_private_and_nothing_large_is_sent_to_the_build() -> None:
    for path in (".git/config", ".venv/bin/python", "runs/a/report.html", "tests/a.py", "my.token"):
        assert not is_sent(path), path
    assert not is_sent("deploy/models/policy/training/state.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_dependencies_come_before_the_source_and_from_the_lock(kind: str) -> None:
    stage, steps = final_stage(kind), install.pip_steps(FOLDER / f"Dockerfile.{kind}")
    assert [bool("--no-deps" in step) for step in steps] == [kind == "gpu", True, True]
    assert f"--requirement /opt/alphagrpo/{kind}.txt" in steps[1]
    assert "/wheels/alphagrpo_mesh-*.whl" in steps[2]
    assert [value.split()[0] for value in arguments(stage, "COPY")] == [f"requirements/{kind}.txt"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_python_is_one_the_project_runs_on(kind: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (python,) = (v.split("=")[1] for v in arguments(instructions(kind), "ARG") if "PYTHON" in v)
    assert SpecifierSet(project["requires-python"]).contains(f"{python}.0")
    images = {value.split()[0] for value in arguments(instructions(kind), "FROM")}
    assert images == {"python:${PYTHON}-slim-bookworm"}


@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_as_a_user_whose_home_ray_finds(kind: str) -> None:
    stage = final_stage(kind)
    names = [name for name, _ in stage]
    user = arguments(stage, "USER")[-1]
    assert user not in {"root", "0"}
    assert "RUN" not in names[names.index("USER") :]
    (added,) = (value for value in arguments(stage, "RUN") if "useradd" in value)
    assert re.search(rf"--uid 1000 --shell /bin/bash {user}\b", added)
    assert environment(kind)["HOME"] == f"/home/{user}"
    assert f"--mode=0700 --owner={user} --group={user} /home/{user}/.ray" in added
    assert "ENTRYPOINT" not in names, "Ray's launcher starts bash"


@pytest.mark.parametrize("kind", KINDS)
def test_the_launchers_tools_are_there_and_package_lists_are_not(kind: str) -> None:
    (step,) = (value for value in arguments(final_stage(kind), "RUN") if "apt-get" in value)
    assert LAUNCHER <= set(step.split())
    assert "--no-install-recommends" in step
    assert "rm -rf /var/lib/apt/lists/*" in step


@pytest.mark.parametrize("kind", KINDS)
def test_authentication_is_on_and_no_secret_is_inside(kind: str) -> None:
    assert environment(kind)["RAY_AUTH_MODE"] == "token"
    settings = arguments(instructions(kind), "ENV") + arguments(instructions(kind), "ARG")
    assert not re.search(
        r"(?i)(auth_token|password|secret|api_key|hf_token)\s*=", " ".join(settings)
    )


def test_a_gpu_container_asks_its_runtime_for_the_gpus() -> None:
    assert environment("gpu")["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert "g++" in " ".join(arguments(final_stage("gpu"), "RUN")).split()
