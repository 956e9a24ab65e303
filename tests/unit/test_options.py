"""Choices are written once: a config and the code that obeys it cannot drift apart."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]


def literals(tree: ast.Module) -> list[tuple[str, ...]]:
    """The values of each ``Literal[...]`` of several values, in alphabetical order."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            values = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
            found.append(tuple(sorted(map(ast.unparse, values))))
    return [values for values in found if values]


def test_no_choice_is_written_twice() -> None:
    places = defaultdict(list)
    for path in (ROOT / "alphagrpo").rglob("*.py"):
        for values in literals(ast.parse(path.read_text(encoding="utf-8"))):
            places[values].append(str(path.relative_to(ROOT)))
    assert len(places) > 20
    assert not {values: paths for values, paths in places.items() if len(paths) > 1}


def test_the_choices_cost_no_torch() -> None:
    code = "import sys, alphagrpo.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
