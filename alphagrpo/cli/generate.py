"""``alphagrpo generate``: think, draw, and save the picture."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from alphagrpo.cli.console import Narrator, print_json
from alphagrpo.errors import ConfigError

HELP = "draw one picture with the policy"
DEFAULT_CONFIG = Path("deploy/configs/shapes-rt2i.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("text", metavar="TEXT", help="what to draw")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="a run config")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", dest="overrides")
    parser.add_argument("--checkpoint", type=Path, help="a run's checkpoint folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="denoising steps (default: the evaluation's)")
    parser.add_argument("--scale", type=int, default=1, help="enlarge the saved picture so often")
    parser.add_argument("--output", type=Path, default=Path("picture.png"))
    parser.add_argument("--json", action="store_true", help="one JSON object for a machine")


def run(args: argparse.Namespace) -> int:
    """Print the thought and save the picture."""
    from alphagrpo.config import load_config

    if not args.text.strip():
        raise ConfigError("a prompt must hold a word, got an empty one; write what to draw")
    overrides = list(args.overrides)
    if args.steps is not None:
        overrides.append(f"evaluation.num_points={args.steps + 1}")
    config = load_config(args.config, overrides)

    from PIL import Image

    from alphagrpo.cli.local_policy import LocalPolicy
    from alphagrpo.ports import PictureRequest
    from alphagrpo.types import Prompt

    policy = LocalPolicy(config, args.checkpoint)
    request = PictureRequest(prompt=Prompt(id="prompt", text=args.text.strip()), seed=args.seed)
    (picture,) = asyncio.run(policy.draw([request], version=-1))
    height, width = (side * max(1, args.scale) for side in picture.pixels.shape[:2])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture.pixels).resize((width, height), Image.Resampling.NEAREST)
    image.save(args.output)
    if args.json:
        print_json({"thought": picture.thought, "output": str(args.output), "seed": args.seed})
    else:
        narrator = Narrator()
        narrator.console.print(picture.thought or "(no thought)", markup=False)
        narrator.console.print(f"{args.output}  {width} x {height}", markup=False)
    return 0
