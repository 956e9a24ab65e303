"""Writes ``report.html``: one file, nothing loaded from anywhere else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from alphagrpo.files import write_atomically
from alphagrpo.report.cells import points_cell
from alphagrpo.report.view import build_view

if TYPE_CHECKING:
    from alphagrpo.record.folder import RunFolder


def render_report(folder: RunFolder) -> str:
    """The report of a run as HTML."""
    environment = Environment(
        loader=PackageLoader("alphagrpo.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": points_cell, "signed": _signed}
    return environment.get_template("report.html").render(build_view(folder))


def write_report(folder: RunFolder) -> Path:
    """Write (or replace) the run's ``report.html`` and return its path."""
    write_atomically(folder.report_path, render_report(folder))
    return folder.report_path


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _signed(value: float) -> str:
    return f"{value:+.2f}"
