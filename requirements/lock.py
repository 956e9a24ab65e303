"""Make the locks again: ``make lock``, or with ``--upgrade`` from the newest releases.

Three files, each for CPython 3.11 and 3.12 on Linux x86_64: ``gpu.txt`` and ``cpu.txt`` are what a
machine of either kind runs, ``dev.txt`` is what the tests and checks add to either. uv reads only
the packages' metadata, nothing is installed. A pin that still fits is kept without ``--upgrade``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
PYTHONS = ("3.11", "3.12")
MACHINE = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
CPYTHON = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
LEFT_OUT_ON_CPU = ("torch", "torchvision", "torchaudio", "torchcodec", "opencv-python-headless")
"""torch goes first, alone; the registry's builds of the others break a CPU torch, or are video."""
ADDED_ON_CPU = (
    *("filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions"),
    "intel-cmplr-lib-ur",
)
"""What torch needs itself, as it is not followed; and what only the Linux wheel of intel-openmp
says that it needs, while uv reads one wheel of each release."""
HEADERS = {
    "gpu": """\
# What a machine with NVIDIA GPUs runs, pinned: `pip install --no-deps -r requirements/gpu.txt`.
""",
    "cpu": """\
# What a machine without GPUs runs, pinned. Install torch first, then this file with --no-deps:
# `make setup` does both. Left out on purpose: torch (installed first), torchvision, torchaudio and
# torchcodec (their registry builds need CUDA and break a CPU torch), opencv (video only).
""",
    "dev": """\
# What tests and checks need beside cpu.txt or gpu.txt, pinned; install it with --no-deps too.
""",
}
SCOPE = "# CPython 3.11 and 3.12 on Linux x86_64. Made by `make lock`; do not edit.\n"


def main() -> None:
    """Write the three files; the direct dependencies of the GPU lock decide the CPU lock's."""
    parser = argparse.ArgumentParser(prog="python requirements/lock.py", description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="newest releases that fit")
    args = parser.parse_args()
    kept = {name: {} if args.upgrade else read_lock(name) for name in HEADERS}
    gpu = resolve(["gpu", "miniature"], kept["gpu"] | kept["dev"])
    shared = {name: gpu[name] for name in direct_dependencies() if name in gpu}
    cpu = resolve(["cpu", "miniature"], kept["cpu"] | kept["dev"], shared, on_cpu=True)
    with_dev = resolve(["cpu", "miniature", "dev"], kept["dev"], cpu, on_cpu=True)
    write_lock("gpu", gpu)
    write_lock("cpu", cpu)
    write_lock("dev", {name: pin for name, pin in with_dev.items() if name not in cpu})


def resolve(
    extras: list[str],
    kept: dict[str, str],
    fixed: dict[str, str] | None = None,
    *,
    on_cpu: bool = False,
) -> dict[str, str]:
    """Version by package of pyproject.toml with ``extras``, one for both Pythons.

    ``kept`` is preferred where it fits, ``fixed`` must hold. Raises SystemExit where there is no
    solution, or none that both Pythons share.
    """
    with tempfile.TemporaryDirectory() as scratch:
        names = ("output", "fixed", "excluded", "added")
        output, constraints, excludes, added = (Path(scratch) / f"{name}.txt" for name in names)
        output.write_text(lines_of(kept))
        constraints.write_text(lines_of(fixed or {}))
        excludes.write_text("\n".join(LEFT_OUT_ON_CPU if on_cpu else ()))
        added.write_text("\n".join(ADDED_ON_CPU if on_cpu else ()))
        command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", str(added)]
        command += ["--universal", "--python-version", PYTHONS[0], "--fork-strategy", "fewest"]
        command += ["--no-header", "--no-annotate", "--quiet", "--output-file", str(output)]
        command += ["--constraints", str(constraints), "--excludes", str(excludes)]
        for extra in extras:
            command += ["--extra", extra]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise SystemExit(f"no lock for {', '.join(extras)}: uv found no solution, see above")
        return pins(output.read_text())


def pins(text: str) -> dict[str, str]:
    """Version by canonical name; every package must be needed at one version by both Pythons."""
    found = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        marker, name = requirement.marker, canonical(requirement.name)
        for python in PYTHONS if marker else ():
            version = {"python_version": python, "python_full_version": f"{python}.0"}
            if marker and not marker.evaluate({**MACHINE, **CPYTHON, **version}):
                raise SystemExit(f"a lock holds for {' and '.join(PYTHONS)}, got {line!r}")
        if name in found:
            raise SystemExit(f"a lock has one version of a package, got two of {name}")
        found[name] = str(requirement.specifier).removeprefix("==")
    return found


def direct_dependencies() -> list[str]:
    """Canonical names of what pyproject.toml asks for at run time."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["miniature"]]
    return [canonical(Requirement(line).name) for line in asked]


def canonical(name: str) -> str:
    """A package's name as the registry compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(name: str) -> dict[str, str]:
    """The pins of a lock, empty where it does not exist."""
    path = FOLDER / f"{name}.txt"
    return pins(path.read_text()) if path.exists() else {}


def write_lock(name: str, versions: dict[str, str]) -> None:
    """Write ``requirements/<name>.txt`` under its header."""
    (FOLDER / f"{name}.txt").write_text(HEADERS[name] + SCOPE + lines_of(versions))
    print(f"requirements/{name}.txt: {len(versions)} packages")


def lines_of(versions: dict[str, str]) -> str:
    """Pins, one a line, in the alphabet's order."""
    return "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


if __name__ == "__main__":
    main()
