"""Figures of the source tree: lines, import layers and cycles, cost of imports, test ratio.

``python -m benchmarks.structure``; ``--root`` measures another checkout, older or newer. All is
read from the files; only the import costs run anything, each time in a process of its own.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.import_costs import HEAVY, Absent, import_cost
from benchmarks.import_graph import Function, import_edges, modules, parse, shape_of
from benchmarks.tables import markdown

Figures = dict[str, Any]
"""JSON values; what could not be had is None."""

LIBRARY = ("alphagrpo", "actors", "services")
PACKAGES = (*LIBRARY, "miniature")
MINIATURE = ("alphagrpo/shapes/policy", "alphagrpo/shapes/judges")
"""Training of the miniature models: no part of the library, wherever it lies."""
LIBRARY_TESTS = ("tests/unit", "tests/services", "tests/cluster", "tests/deploy")
MINIATURE_TESTS = ("tests/unit/shapes", "tests/unit/miniature")
TARGETS = ("alphagrpo.loop", "services.gateway", "services.client", "alphagrpo.cli.training")
COMMAND = ("train", "deploy/configs/shapes-rt2i.yaml", "--dry-run")


def sources(root: Path, folders: Iterable[str], without: Iterable[str] = ()) -> list[Path]:
    """Python files under ``folders`` of ``root`` (a file stands for itself), less ``without``."""
    found: set[Path] = set()
    for folder in folders:
        found.update([root / folder] if folder.endswith(".py") else (root / folder).rglob("*.py"))
    left_out = [root / folder for folder in without]
    return sorted(p for p in found if p.is_file() and not any(map(p.is_relative_to, left_out)))


def count_lines(paths: Iterable[Path]) -> int:
    """Physical lines of files."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def function_lengths(tree: ast.Module) -> list[int]:
    """Lines of each function and method, nested ones too, from ``def`` to the last line."""
    functions = (node for node in ast.walk(tree) if isinstance(node, Function))
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]


def distribution(values: Sequence[int]) -> Figures:
    """Number, median, p90 (nearest rank) and maximum; of no values only the number."""
    if not values:
        return {"number": 0, "median": None, "p90": None, "max": None}
    p90 = sorted(values)[math.ceil(0.9 * len(values)) - 1]
    median = statistics.median(values)
    return {"number": len(values), "median": median, "p90": p90, "max": max(values)}


def line_figures(root: Path) -> Figures:
    """Lines of each top-level package that exists, per file and per function."""
    found = {}
    for package in PACKAGES:
        if paths := sources(root, [package]):
            files = [count_lines([path]) for path in paths]
            functions = [length for path in paths for length in function_lengths(parse(path))]
            spreads = {"files": distribution(files), "functions": distribution(functions)}
            found[package] = {"lines": sum(files), **spreads}
    return found


def package_of(module: str) -> str:
    """``alphagrpo.x`` of anything inside it; of the other top-level packages the whole."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "alphagrpo" else 1])


def import_figures(root: Path) -> Figures:
    """The import graph of alphagrpo and of all packages, package by package and by module."""
    found: Figures = {}
    levels: Mapping[str, Callable[[str], str]] = {"packages": package_of, "modules": str}
    for scope, tops in {"alphagrpo": LIBRARY[:1], "all": PACKAGES}.items():
        known = modules(root, tops)
        edges = dict(zip(("at import", "anywhere"), import_edges(known), strict=True))
        for level, name in levels.items():
            found[f"{scope}, {level}"] = {
                when: asdict(shape_of(map(name, known), [(name(a), name(b)) for a, b in some]))
                for when, some in edges.items()
            }
    return found


def crossings(root: Path) -> list[str]:
    """Imports, anywhere in a file, between actors and services."""
    _, edges = import_edges(modules(root, ["actors", "services"]))
    return sorted(f"{a} imports {b}" for a, b in edges if package_of(a) != package_of(b))


def cost_figures(root: Path) -> Figures:
    """Import costs of the targets and of a dry run; ``absent`` says why there is none."""
    calls = {"python alone": (), **{target: (target,) for target in TARGETS}}
    calls[f"alphagrpo {' '.join(COMMAND)}"] = ("alphagrpo.cli.main", *COMMAND)
    costs = {name: import_cost(root, *call) for name, call in calls.items()}
    return {
        name: {"absent": str(cost)} if isinstance(cost, Absent) else asdict(cost)
        for name, cost in costs.items()
    }


def compared(tests: Sequence[Path], code: Sequence[Path]) -> Figures:
    """Lines of tests against lines of code."""
    lines = {"tests": count_lines(tests), "code": count_lines(code)}
    return lines | {"ratio": lines["tests"] / lines["code"] if lines["code"] else None}


def ratio_figures(root: Path) -> Figures:
    """Lines of tests to lines of code: of the library without the miniature models, and of all."""
    tests = sources(root, LIBRARY_TESTS, MINIATURE_TESTS)
    return {
        "library": compared(tests, sources(root, LIBRARY, MINIATURE)),
        "all": compared(sources(root, ["tests"]), sources(root, PACKAGES)),
    }


def package_ratios(root: Path) -> Figures:
    """The same of each package of alphagrpo and the unit tests that mirror it.

    Unit tests that mirror no package have no lines of code.
    """
    inside = [("alphagrpo", sources(root, ["alphagrpo"]))]
    inside.append(("tests/unit", sources(root, ["tests/unit"])))
    firsts = {p.relative_to(root / top).parts[0] for top, paths in inside for p in paths}
    names = {first.removesuffix(".py").removeprefix("test_") for first in firsts}
    found = {}
    for name in sorted(names - {"__init__", "conftest"}):
        tests = sources(root, [f"tests/unit/{name}", f"tests/unit/test_{name}.py"])
        code = sources(root, [f"alphagrpo/{name}", f"alphagrpo/{name}.py"])
        found[name] = compared(tests, code)
    return found


def measure(root: Path) -> Figures:
    """All figures of the tree at ``root``."""
    return {
        "lines": line_figures(root),
        "imports": import_figures(root),
        "between actors and services": crossings(root),
        "costs": cost_figures(root),
        "tests": ratio_figures(root),
        "tests of packages": package_ratios(root),
    }


def cell(value: float | None, digits: int = 0) -> str:
    """A number for a table, ``-`` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def lines_table(found: Figures) -> str:
    """Lines per file and per function."""
    header = ["package", "lines"]
    header += ["files", "lines per file: median", "p90", "max"]
    header += ["functions", "lines per function: median", "p90", "max"]
    rows = [
        [package, cell(one["lines"])]
        + [cell(one[of][figure]) for of in ("files", "functions") for figure in one[of]]
        for package, one in found.items()
    ]
    return markdown(header, rows)


def imports_table(found: Figures) -> str:
    """Layers and number of cycles, then each cycle by its names."""
    figures = ("nodes", "edges", "layers")
    rows, cycles = [], []
    for graph, whens in found.items():
        for when, one in whens.items():
            counts = [cell(one[figure]) for figure in figures]
            rows.append([graph, when, *counts, cell(len(one["cycles"]))])
            cycles += [f"cycle ({graph}, {when}): {', '.join(names)}" for names in one["cycles"]]
    return "\n".join([markdown(["graph", "imports", *figures, "cycles"], rows), "", *cycles])


def costs_table(found: Figures) -> str:
    """Cost of each target; one without figures is said to be absent, and why."""
    rows = []
    for target, one in found.items():
        if "absent" in one:
            rows.append([target, "absent", one["absent"], *["-"] * len(HEAVY)])
        else:
            loaded = ["yes" if name in one["loaded"] else "no" for name in HEAVY]
            rows.append([target, cell(one["cpu_s"], 2), cell(one["peak_mb"]), *loaded])
    return markdown(["target", "CPU s", "peak MB", *HEAVY], rows)


def tests_table(found: Figures) -> str:
    """Lines of tests against lines of code."""
    rows = [
        [of, cell(one["tests"]), cell(one["code"]), cell(one["ratio"], 2)]
        for of, one in found.items()
    ]
    return markdown(["of", "test lines", "code lines", "ratio"], rows)


def show(found: Figures) -> None:
    """Prints every table."""
    across = "; ".join(found["between actors and services"]) or "no"
    print(lines_table(found["lines"]), end="\n\n")
    print(imports_table(found["imports"]))
    print("anywhere: also inside functions and under TYPE_CHECKING")
    print(f"actors and services import each other: {across}", end="\n\n")
    print(costs_table(found["costs"]), end="\n\n")
    print(tests_table(found["tests"]), end="\n\n")
    print(tests_table(found["tests of packages"]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structure", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    args = parser.parse_args()
    if not (args.root / "alphagrpo").is_dir():
        parser.error(f"--root is a checkout that holds alphagrpo/, got {args.root}")
    found = measure(args.root)
    print(json.dumps(found, indent=2)) if args.json else show(found)


if __name__ == "__main__":
    main()
