"""Who imports whom in a tree of source files, read by ``ast``: layers and cycles.

An edge is an import that a statement names; parents that Python imports on the way and calls of
``importlib`` are none.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

Edge = tuple[str, str]
"""The module that imports, the module it imports."""
Import = ast.Import | ast.ImportFrom
Function = ast.FunctionDef | ast.AsyncFunctionDef
NOT_AT_IMPORT = ("TYPE_CHECKING", "__name__ == '__main__'")
"""Conditions that do not hold while a module is imported."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a graph looks like."""

    nodes: int
    edges: int
    layers: int
    """The longest chain once the nodes of each cycle count as one."""
    cycles: list[list[str]]
    """Strongly connected components of more than one node."""


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def modules(root: Path, packages: Iterable[str]) -> dict[str, Path]:
    """Every module of some top-level packages by its dotted name."""
    found = {}
    for path in sorted(p for package in packages for p in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def import_statements(node: ast.AST, at_import: bool = True) -> Iterator[tuple[Import, bool]]:
    """Import statements, each with whether it runs when the module is imported."""
    if isinstance(node, Import):
        yield node, at_import
    at_import = at_import and not isinstance(node, Function)
    later: Sequence[ast.AST] = ()
    if isinstance(node, ast.If):
        condition = ast.unparse(node.test).removeprefix("typing.")
        later = node.body if condition in NOT_AT_IMPORT else ()
    for child in ast.iter_child_nodes(node):
        yield from import_statements(child, at_import and child not in later)


def imported(statement: Import, package: Sequence[str], known: Mapping[str, Path]) -> Iterator[str]:
    """Modules of ``known`` that a statement of a module in ``package`` names."""
    names = [alias.name for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        parents = package[: len(package) - statement.level + 1] if statement.level else ()
        base = [*parents, *([statement.module] if statement.module else ())]
        names = [".".join([*base, name]) for name in names]
    for name in names:
        while name and name not in known:
            name = name.rpartition(".")[0]
        if name:
            yield name


def import_edges(known: Mapping[str, Path]) -> tuple[set[Edge], set[Edge]]:
    """Edges of imports that run when the module is imported, and of all in its file."""
    at_import: set[Edge] = set()
    anywhere: set[Edge] = set()
    for name, path in known.items():
        parts = name.split(".")
        package = parts if path.name == "__init__.py" else parts[:-1]
        for statement, now in import_statements(parse(path)):
            edges = {(name, other) for other in imported(statement, package, known)}
            anywhere |= edges
            at_import |= edges if now else set()
    return at_import, anywhere


def reachable(start: str, below: Mapping[str, set[str]]) -> set[str]:
    """Nodes that one or more edges lead to."""
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        new = below[ahead.pop()] - seen
        seen |= new
        ahead.extend(new)
    return seen


def shape_of(nodes: Iterable[str], edges: Iterable[Edge]) -> Shape:
    """Layers and cycles of a graph; an edge from a node to itself is dropped."""
    below: dict[str, set[str]] = {node: set() for node in nodes}
    for importer, other in edges:
        below[importer] |= {other} - {importer}
    reach = {node: reachable(node, below) for node in below}
    cycle = {n: frozenset({n, *(o for o in reach[n] if n in reach[o])}) for n in below}
    under = {c: {cycle[o] for n in c for o in below[n]} - {c} for c in cycle.values()}
    depth: dict[frozenset[str], int] = {}
    for one in TopologicalSorter(under).static_order():
        depth[one] = 1 + max((depth[other] for other in under[one]), default=0)
    return Shape(
        nodes=len(below),
        edges=sum(map(len, below.values())),
        layers=max(depth.values(), default=0),
        cycles=sorted(sorted(one) for one in depth if len(one) > 1),
    )
