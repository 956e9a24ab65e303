"""What is shipped: the wheel holds the three packages and their data, and works on its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("alphagrpo", "actors", "services")
KEPT_BACK = ("miniature", "tests", "benchmarks")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
# -S reads no .pth file, so that the editable install of a checkout is not met; what the wheel
# depends on is put behind it.
ALONE = """
import sys
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
import json
import actors, alphagrpo, services
from alphagrpo.cli.main import main
from jinja2 import PackageLoader
templates = PackageLoader("alphagrpo.report", "templates").list_templates()
code = main(["shapes", "sheet", "--output", "sheet.png"])
files = [package.__file__ for package in (alphagrpo, actors, services)]
print(json.dumps({"files": files, "code": code, "templates": templates}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left in the checkout."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*SHIPPED, *KEPT_BACK):
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-c", BUILD, str(output)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = output.glob("*.whl")
    return path


def test_every_file_of_the_three_packages_is_shipped_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT))
        for package in SHIPPED
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert names == expected
    assert {f"{package}/py.typed" for package in SHIPPED} <= names


def test_the_core_needs_no_transformers_and_no_liger(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    needs = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    core = [need for need in needs if "extra ==" not in need]
    assert any(need.startswith("torch==") for need in core)
    assert not [need for need in core if need.startswith(("transformers", "liger"))]
    assert [need for need in needs if need.startswith("transformers")]


def test_nothing_that_is_shipped_imports_what_the_wheel_does_not_bring(wheel: Path) -> None:
    absent = "|".join(("transformers", "liger_kernel", *KEPT_BACK))
    pattern = re.compile(rf"^\s*(?:from|import) (?:{absent})\b", re.MULTILINE)
    archive = zipfile.ZipFile(wheel)
    sources = {n: archive.read(n).decode() for n in archive.namelist() if n.endswith(".py")}
    assert not [name for name, source in sources.items() if pattern.search(source)]


def test_it_works_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    libraries = sysconfig.get_paths()["purelib"]
    command = [sys.executable, "-S", "-c", ALONE, str(site), libraries]
    done = subprocess.run(
        command, cwd=work, env={"PATH": ""}, check=True, capture_output=True, text=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert all(Path(file).is_relative_to(site) for file in result["files"])
    assert result["code"] == 0
    assert (work / "sheet.png").stat().st_size > 1000
    assert result["templates"] == ["report.css", "report.html"]
