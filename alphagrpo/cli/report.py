"""``alphagrpo report RUN``: make a run's report again from its folder."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "make the HTML report of a run folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder: runs/<name>")


def run(args: argparse.Namespace) -> int:
    """Write ``report.html`` and print where it is."""
    from alphagrpo.record.folder import RunFolder
    from alphagrpo.report.render import write_report

    print(write_report(RunFolder.open(args.run_folder)))
    return 0
