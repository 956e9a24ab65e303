"""What is shipped: the wheel holds the packages and what the commands need, and works alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from benchmarks.install import build_wheel

ROOT = Path(__file__).parents[2]
SHIPPED = ("alphagrpo", "actors", "services")
KEPT_BACK = ("miniature", "tests", "benchmarks")
# -S reads no .pth file, so that the editable install of a checkout is not met; what the wheel
# depends on is put behind it.
ALONE = """
import sys
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
import json
import actors, alphagrpo, services
from alphagrpo.cli.main import main
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked, as an installation lays it."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def run_alone(site: Path, work: Path, code: str) -> Any:
    """The JSON value that ``code`` prints last, with the wheel's packages and no checkout's."""
    libraries = sysconfig.get_paths()["purelib"]
    command = [sys.executable, "-S", "-c", ALONE + code, str(site), libraries]
    done = subprocess.run(command, cwd=work, env={"PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def files_of(*folders: str) -> set[str]:
    """Files of the checkout's folders that belong to the project."""
    return {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "training" not in path.parts
    }


def test_the_packages_and_what_the_commands_need_are_shipped_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    data = files_of("deploy/configs", "deploy/serve", "deploy/models")
    assert names == files_of(*SHIPPED) | {f"alphagrpo/{name}" for name in data}
    assert {f"{package}/py.typed" for package in SHIPPED} <= names


def test_the_licence_covers_the_weights_too(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (licence,) = (name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
    assert archive.read(licence).decode().strip().startswith("Apache License")
    for model in ("policy", "decomposer", "verifier"):
        card = archive.read(f"alphagrpo/deploy/models/{model}/README.md").decode()
        assert "license: apache-2.0" in card


def test_the_core_needs_no_transformers_and_no_liger(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    needs = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    core = [need for need in needs if "extra ==" not in need]
    assert any(Requirement(need).name == "torch" for need in core)
    assert not [need for need in core if need.startswith(("transformers", "liger"))]
    assert [need for need in needs if need.startswith("transformers")]


def test_nothing_that_is_shipped_imports_what_the_wheel_does_not_bring(wheel: Path) -> None:
    absent = "|".join(("transformers", "liger_kernel", *KEPT_BACK))
    pattern = re.compile(rf"^\s*(?:from|import) (?:{absent})\b", re.MULTILINE)
    archive = zipfile.ZipFile(wheel)
    sources = {n: archive.read(n).decode() for n in archive.namelist() if n.endswith(".py")}
    assert not [name for name, source in sources.items() if pattern.search(source)]


def test_it_works_from_an_empty_folder(site: Path, tmp_path: Path) -> None:
    code = """
from jinja2 import PackageLoader
templates = PackageLoader("alphagrpo.report", "templates").list_templates()
code = main(["shapes", "sheet", "--output", "sheet.png"])
files = [package.__file__ for package in (alphagrpo, actors, services)]
print(json.dumps({"files": files, "code": code, "templates": templates}))
"""
    result = run_alone(site, tmp_path, code)
    assert all(Path(file).is_relative_to(site) for file in result["files"])
    assert result["code"] == 0
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert result["templates"] == ["report.css", "report.html"]


@pytest.mark.parametrize("config", ["shapes-rt2i", "smoke", "shapes-srr"])
def test_a_shipped_run_is_checked_from_an_empty_folder(
    site: Path, tmp_path: Path, config: str
) -> None:
    code = f"""
sys.exit(main(["train", "deploy/configs/{config}.yaml", "--dry-run", "--json"]))
"""
    result = run_alone(site, tmp_path, code)
    (note,) = result["notes"]
    assert "not predicted for model.device cpu" in note, "model, prompts and Serve config are there"
    assert any("verifier" in role["name"] for role in result["placement"]["roles"])
    assert list(tmp_path.iterdir()) == []


def test_shipped_services_and_their_models_are_found_from_an_empty_folder(
    site: Path, tmp_path: Path
) -> None:
    code = """
from pathlib import Path
from services.paths import project_root, resolve_model
from services.serve_config import load_serve_file
found = {name: load_serve_file(Path(f"deploy/serve/{name}.yaml")).applications
         for name in ("shapes", "shapes-generator")}
print(json.dumps([found, resolve_model("deploy/models/verifier"), str(project_root())]))
"""
    applications, model, root = run_alone(site, tmp_path, code)
    assert applications["shapes"] == ["decomposer", "verifier", "gateway"]
    assert "generator" in applications["shapes-generator"]
    assert model == str(site / "alphagrpo/deploy/models/verifier")
    assert root == str(tmp_path)


def test_a_picture_is_drawn_from_an_empty_folder(site: Path, tmp_path: Path) -> None:
    code = """
sys.exit(main(["generate", "a red circle", "--steps", "2", "--json"]))
"""
    assert run_alone(site, tmp_path, code)["output"] == "picture.png"
    assert (tmp_path / "picture.png").stat().st_size > 100
