"""Writes ``report.html``: one file, nothing loaded from anywhere else."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from alphagrpo.files import write_atomically
from alphagrpo.report.cells import points_cell
from alphagrpo.report.view import Progress, build_view

if TYPE_CHECKING:
    from alphagrpo.record.folder import RunFolder


def render_report(folder: RunFolder, progress: Progress | None = None) -> str:
    """The report of a run as HTML; with ``progress`` that of a run that is still under way."""
    return _template().render(build_view(folder, progress))


def write_report(folder: RunFolder, progress: Progress | None = None) -> Path:
    """Write (or replace) the run's ``report.html`` and return its path."""
    write_atomically(folder.report_path, render_report(folder, progress))
    return folder.report_path


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("alphagrpo.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": points_cell, "signed": _signed}
    return environment.get_template("report.html")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _signed(value: float) -> str:
    return f"{value:+.2f}"
