"""``alphagrpo train CONFIG``: check everything, then evaluate, train, evaluate again and report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphagrpo.cli.console import Narrator, print_json, print_table
from alphagrpo.errors import ConfigError

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig

HELP = "train a policy as a run config says"
NEWEST = "newest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "config", type=Path, nargs="?", metavar="CONFIG", help="a run config (YAML)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        dest="overrides",
        help="replace a setting; may be repeated",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=NEWEST,
        metavar="STEP",
        help="go on from the newest whole checkpoint, or from that of STEP; what was recorded "
        "after it is dropped, later checkpoints are moved to checkpoints/later",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check and compute everything, start nothing"
    )
    parser.add_argument(
        "--card",
        default="H200",
        metavar="NAME",
        help="with --dry-run: the GPU to predict for, H200, H100 or A100 (default H200)",
    )
    parser.add_argument("--json", action="store_true", help="JSON lines for a machine")


def run(args: argparse.Namespace) -> int:
    """Train, or with ``--dry-run`` only say what that would take."""
    from alphagrpo.config import load_config

    path, step = _asked_for(args.config, args.resume)
    config = load_config(path, args.overrides)
    if args.dry_run:
        return _dry_run(config, args.card, as_json=args.json)
    from alphagrpo.cli.again import Asked
    from alphagrpo.cli.training import train

    asked = Asked(path, tuple(args.overrides))
    resume, narrator = args.resume is not None, Narrator(as_json=args.json)
    return train(config, asked, resume=resume, step=step, narrator=narrator)


def _asked_for(config: Path | None, resume: str | None) -> tuple[Path, int | None]:
    """The config, and the step to go on from, None for the newest.

    ``--resume CONFIG`` has taken the config for a step. Raises ConfigError for a step that is no
    number, and where there is no config.
    """
    step = None if resume in (None, NEWEST) else resume
    if config is None and step is not None and not step.isdecimal():
        config, step = Path(step), None
    if config is None:
        raise ConfigError("alphagrpo train needs a run config, got none; name one: CONFIG")
    if step is not None and not step.isdecimal():
        raise ConfigError(
            f"--resume STEP must be the step of a checkpoint, got {step!r}; leave it out for the "
            "newest"
        )
    return config, None if step is None else int(step)


def _dry_run(config: RunConfig, card: str, *, as_json: bool) -> int:
    from alphagrpo.cli.dryrun import dry_run

    figures: dict[str, Any] = dry_run(config, card)
    tables = figures.pop("tables")
    if as_json:
        print_json(figures)
        return 0
    console = Narrator().console
    console.print(f"dry run of {figures['run']}: the config is valid, nothing was started\n")
    for title, rows in tables.items():
        print_table(console, title, rows)
    if "time" in figures:
        console.print(f"advice: {figures['time']['advice']}", markup=False)
    for note in figures["notes"]:
        console.print(f"note: {note}", markup=False)
    return 0
