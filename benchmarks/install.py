"""What an installation costs: the wheel, the locked packages, and with ``--recipe`` an image.

    python -m benchmarks.install
    python -m benchmarks.install --recipe cpu          # minutes, and what the lock downloads
    python -m benchmarks.install --recipe gpu --python python3.12

A recipe is the pip steps of ``deploy/docker/Dockerfile.*``, run in a fresh virtual environment: no
image is built, so the base image and Debian's packages are not in the figures.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from time import perf_counter

from rich.console import Console

from alphagrpo.cli.console import print_table

ROOT = Path(__file__).parents[1]
SOURCES = ("alphagrpo", "actors", "services", "deploy")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
KINDS = {".py": "code", ".safetensors": "weights", ".json": "model files", ".yaml": "configs"}
MB = 1e6
LARGEST = 10
Instruction = tuple[str, str]
Row = tuple[str, ...]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.install", description=__doc__)
    parser.add_argument("--recipe", choices=("cpu", "gpu"), help="run an image's pip steps too")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the fresh venvs")
    args = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(Path(scratch) / "wheel")
        title = f"{wheel.name}: {wheel.stat().st_size / MB:.1f} MB"
        print_table(console, title, wheel_rows(wheel), ("kind", "files", "MB unpacked"))
        seconds = installed_alone(wheel, Path(scratch) / "alone", args.python)
        console.print(f"into a fresh environment, without dependencies: {seconds:.1f} s\n")
        print_table(console, "this environment", package_rows(), ("package", "MB"))
        if args.recipe:
            steps = pip_steps(ROOT / f"deploy/docker/Dockerfile.{args.recipe}")
            rows = recipe_rows(steps, wheel, Path(scratch) / "image", args.python)
            print_table(console, f"Dockerfile.{args.recipe}", rows, ("step", "s", "MB"))


def build_wheel(output: Path) -> Path:
    """The wheel of this checkout, built from a copy that leaves nothing behind; returns its path.

    Raises CalledProcessError with setuptools' words in ``stderr``.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in SOURCES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, Path(scratch) / name, ignore=ignored)
        for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, scratch)
        command = [sys.executable, "-c", BUILD, str(output.resolve())]
        subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True)
    (wheel,) = output.glob("*.whl")
    return wheel


def instructions(dockerfile: Path) -> list[Instruction]:
    """Name and arguments of each instruction, comments gone and continued lines joined."""
    lines = dockerfile.read_text(encoding="utf-8").splitlines()
    joined = re.sub(r"\\\n\s*", "", "\n".join(ln for ln in lines if not ln.startswith("#")))
    split = [line.split(None, 1) for line in joined.splitlines() if line]
    return [(name, value) for name, value in split]


def final_stage(dockerfile: Path) -> list[Instruction]:
    """The instructions of the image itself, without the stages before it."""
    found = instructions(dockerfile)
    last = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    return found[last:]


def pip_steps(dockerfile: Path) -> list[str]:
    """The commands of the final stage that install packages, one a layer."""
    steps = [value for name, value in final_stage(dockerfile) if name == "RUN"]
    return [re.sub(r"--mount=\S+ *", "", step) for step in steps if "pip install" in step]


def wheel_rows(wheel: Path) -> list[Row]:
    """Files and bytes of the wheel by kind."""
    count: dict[str, int] = {}
    size: dict[str, int] = {}
    for member in zipfile.ZipFile(wheel).infolist():
        kind = KINDS.get(Path(member.filename).suffix, "other")
        count[kind] = count.get(kind, 0) + 1
        size[kind] = size.get(kind, 0) + member.file_size
    rows = [(kind, str(count[kind]), f"{size[kind] / MB:.2f}") for kind in sorted(count)]
    return [*rows, ("all", str(sum(count.values())), f"{sum(size.values()) / MB:.2f}")]


def package_rows() -> list[Row]:
    """Installed size of each package of this environment, the largest first."""
    sizes = {}
    for package in metadata.distributions():
        files = [Path(str(file.locate())) for file in package.files or []]
        sizes[package.name.lower()] = sum(path.stat().st_size for path in files if path.is_file())
    largest = sorted(sizes, key=lambda name: -sizes[name])[:LARGEST]
    rows = [(name, f"{sizes[name] / MB:.0f}") for name in largest]
    return [*rows, (f"all {len(sizes)}", f"{sum(sizes.values()) / MB:.0f}")]


def installed_alone(wheel: Path, folder: Path, python: str) -> float:
    """Seconds that pip takes for the wheel in a fresh environment, whose making is not counted."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    started = perf_counter()
    command = [str(folder / "bin/pip"), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], check=True)
    return perf_counter() - started


def recipe_rows(steps: list[str], wheel: Path, folder: Path, python: str) -> list[Row]:
    """Run the steps in a fresh environment; seconds and growth of each."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    environment = {"TORCH_INDEX": "", **os.environ, "PATH": path, "PIP_QUIET": "1"}
    places = {"/opt/alphagrpo/": f"{ROOT / 'requirements'}/", "/wheels/": f"{wheel.parent}/"}
    rows: list[Row] = []
    before, whole = folder_bytes(folder), 0.0
    for step in steps:
        command = step
        for place, here in places.items():
            command = command.replace(place, here)
        started = perf_counter()
        subprocess.run(["bash", "-ceu", command], env=environment, check=True)
        seconds, after = perf_counter() - started, folder_bytes(folder)
        rows.append((step, f"{seconds:.0f}", f"{(after - before) / MB:.0f}"))
        before, whole = after, whole + seconds
    return [*rows, ("all", f"{whole:.0f}", f"{before / MB:.0f}")]


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


if __name__ == "__main__":
    main()
