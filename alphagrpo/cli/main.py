"""``alphagrpo``: one sub-command per file, none of which imports torch or ray before it runs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from alphagrpo.cli.stopping import Stopped, sigterm_interrupts
from alphagrpo.errors import MeshError

COMMANDS = (
    "train",
    "evaluate",
    "generate",
    "decompose",
    "judge",
    "serve",
    "doctor",
    "report",
    "ledger",
    "rescore",
    "shapes",
)
"""In the order of the help; each is a module of this package with ``HELP``, ``add_arguments`` and
``run``.
"""
USER_ERROR = 2
INTERRUPTED, TERMINATED = 130, 143


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="alphagrpo",
        description="Reinforcement learning for unified multimodal models as a service mesh.",
    )
    parser.add_argument("--verbose", "-v", action="store_true", help="log what happens inside")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = import_module(f"alphagrpo.cli.{name}")
        sub = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a user's mistake is one line, not a traceback."""
    args = build_parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        with sigterm_interrupts():
            return int(args.run(args) or 0)
    except MeshError as error:
        if args.verbose:
            logging.getLogger(__name__).exception("the command failed")
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except Stopped:
        print("terminated", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
