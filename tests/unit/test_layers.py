"""Who may import whom (the design's arrows), checked on the source and on live imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, at any depth of the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def top_level(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


LIBRARY = [p for p in modules("alphagrpo") if "cli" not in p.relative_to(ROOT).parts]


def test_there_is_a_library_to_check() -> None:
    assert len(LIBRARY) > 40
    assert modules("actors")
    assert modules("services")


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_never_imports_ray_nor_the_shells(path: Path) -> None:
    assert not top_level(path) & {"ray", "actors", "services", "miniature", "transformers"}


def test_the_learner_imports_nothing_of_the_rollout() -> None:
    guilty = {
        str(path): name
        for path in modules("alphagrpo/learner")
        for name in imports(path)
        if name.startswith("alphagrpo.rollout")
    }
    assert not guilty


@pytest.mark.parametrize("shell", ["actors", "services", "alphagrpo/cli"])
def test_nothing_that_is_shipped_imports_the_factory_of_the_miniatures(shell: str) -> None:
    assert not [str(path) for path in modules(shell) if "miniature" in top_level(path)]


@pytest.mark.parametrize(("shell", "other"), [("actors", "services"), ("services", "actors")])
def test_the_shells_never_import_each_other(shell: str, other: str) -> None:
    guilty = [str(path) for path in modules(shell) if other in top_level(path)]
    assert not guilty


@pytest.mark.parametrize("shell", ["actors", "services"])
def test_the_shells_never_import_the_commands(shell: str) -> None:
    guilty = [
        str(path)
        for path in modules(shell)
        if any(name.startswith("alphagrpo.cli") for name in imports(path))
    ]
    assert not guilty


def test_commands_import_ray_and_the_shells_only_inside_a_command() -> None:
    heavy = {"ray", "actors", "services", "torch"}
    for path in modules("alphagrpo/cli"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found = {name.split(".")[0] for name in names} & heavy
            assert not found, f"{path.name} imports {found} before any command runs"


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("alphagrpo.config", {"torch", "ray", "vllm", "transformers"}),
        ("alphagrpo.types", {"torch", "ray"}),
        ("alphagrpo.ports", {"torch", "ray"}),
        ("alphagrpo.errors", {"torch", "ray"}),
        ("alphagrpo.cli.main", {"torch", "ray", "vllm", "transformers", "diffusers"}),
        ("alphagrpo.cli.prechecks", {"torch", "ray"}),
        ("alphagrpo.record.folder", {"torch", "ray"}),
        ("alphagrpo.cli.ray_start", {"torch", "ray"}),
        ("services.gateway", {"torch", "vllm", "transformers"}),
        ("services.client", {"torch", "vllm", "transformers"}),
    ],
)
def test_light_modules_stay_light(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & unwanted


def test_a_run_loads_neither_rllib_nor_torch_in_the_driver() -> None:
    """What ``alphagrpo train`` imports; RLlib costs seconds and has private names of its own."""
    code = "import sys, alphagrpo.cli.training, actors.run; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = set(done.stdout.split())
    assert "ray" in loaded
    assert not loaded & {"ray.rllib", "ray.tune", "torch", "transformers", "vllm"}
