"""Evaluation makes figures, the record keeps them, the report renders: imports go one way only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[3] / "alphagrpo"


def imported(folder: str) -> set[str]:
    """Every module of the library that a folder imports, at any depth of its files."""
    names: set[str] = set()
    for path in (LIBRARY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    assert names, f"nothing is imported by {folder}: is it still there?"
    return {name for name in names if name.startswith("alphagrpo.")}


@pytest.mark.parametrize(
    ("folder", "rooms_above"),
    [
        ("eval", ("alphagrpo.record", "alphagrpo.report", "alphagrpo.cli")),
        ("record", ("alphagrpo.report", "alphagrpo.cli")),
        ("report", ("alphagrpo.cli", "alphagrpo.loop", "alphagrpo.step.metrics")),
    ],
)
def test_a_room_imports_none_of_those_that_stand_on_it(
    folder: str, rooms_above: tuple[str, ...]
) -> None:
    assert not [name for name in imported(folder) if name.startswith(rooms_above)]


def test_the_report_writes_nothing_but_its_page_and_computes_no_statistics() -> None:
    names = imported("report")
    assert "alphagrpo.record.recorder" not in names
    calls = {"paired_difference", "share_interval", "mean", "summarise", "differences"}
    assert not [name for name in names if name.rsplit(".", 1)[-1] in calls]
