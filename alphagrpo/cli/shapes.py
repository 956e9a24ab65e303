"""``alphagrpo shapes``: look at the miniature world that the demo trains in."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "look at the miniature world: scenes with their prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    sheet = actions.add_parser("sheet", help="a PNG of scenes with their prompts")
    sheet.add_argument("--output", type=Path, default=Path("shapes.png"))
    sheet.add_argument("--num", type=int, default=24)
    sheet.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Write the sheet and print its path."""
    from alphagrpo.cli.sheet import write_sheet

    print(write_sheet(args.output, args.num, args.seed))
    return 0
