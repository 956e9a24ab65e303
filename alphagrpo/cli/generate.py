"""``alphagrpo generate``: think, draw, reflect on the picture and refine it, or edit one."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from alphagrpo.cli.console import Narrator, print_json
from alphagrpo.cli.serving import DEFAULT_SERVE_CONFIG, serving
from alphagrpo.errors import BadImage, ConfigError
from alphagrpo.options import Gate

if TYPE_CHECKING:
    from alphagrpo.cli.local_policy import LocalPolicy
    from alphagrpo.config import RunConfig
    from alphagrpo.ports import PictureRequest
    from alphagrpo.rollout.rounds import Round

HELP = "draw one picture with the policy, refine it, or edit one"
DEFAULT_CONFIG = Path("deploy/configs/shapes-srr.yaml")
MAX_ROUNDS = 8
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "text", metavar="TEXT", help="what to draw; with --image, what to do to the picture"
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="a run config")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", dest="overrides")
    parser.add_argument("--checkpoint", type=Path, help="a run's checkpoint folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="denoising steps (default: the evaluation's)")
    parser.add_argument("--image", type=Path, help="edit this PNG or JPEG instead of drawing")
    parser.add_argument(
        "--refine", type=int, default=0, metavar="N", help="reflect on the picture and draw again"
    )
    parser.add_argument(
        "--gate",
        choices=get_args(Gate),
        default="dvreward",
        help="dvreward keeps the better of two pictures, none the last (default: dvreward)",
    )
    parser.add_argument("--serve-config", type=Path, default=DEFAULT_SERVE_CONFIG)
    parser.add_argument("--scale", type=int, default=1, help="enlarge saved pictures so often")
    parser.add_argument("--output", type=Path, default=Path("picture.png"))
    parser.add_argument("--json", action="store_true", help="one JSON object for a machine")


def run(args: argparse.Namespace) -> int:
    """Print thoughts and verdicts round by round, save the picture that is kept."""
    from alphagrpo.config import load_config
    from alphagrpo.rollout.rounds import check_rounds

    _check(args)
    check_rounds(args.refine, args.gate, most=MAX_ROUNDS, can_score=True)
    overrides = list(args.overrides)
    if args.steps is not None:
        overrides.append(f"evaluation.num_points={args.steps + 1}")
    config = load_config(args.config, overrides)
    judged = args.refine > 0 and args.gate == "dvreward"

    from alphagrpo.cli.local_policy import LocalPolicy

    policy = LocalPolicy(config, args.checkpoint)
    request = _request(args, config, policy)
    narrator = Narrator(aside=args.json)
    apps = [config.services.decomposer_app, config.services.verifier_app]
    services: Any = serving(args.serve_config, narrator, apps) if judged else nullcontext()
    with services:
        rounds = asyncio.run(_rounds(args, config, policy, request, narrator))
    _save(args, rounds)
    if args.json:
        print_json({"seed": args.seed, "output": str(args.output), **_as_json(args, rounds)})
    return 0


def _check(args: argparse.Namespace) -> None:
    if not args.text.strip():
        raise ConfigError("a prompt must hold a word, got an empty one; write what to draw")
    if args.image is not None and args.refine:
        raise ConfigError(
            f"an edit has no prompt to refine towards, got --image with --refine {args.refine}; "
            "leave one of them out"
        )
    if args.output.suffix.lower() not in PICTURE_SUFFIXES:
        raise ConfigError(
            f"--output must end in {', '.join(PICTURE_SUFFIXES)}, got {args.output}; give a "
            "picture's name such as picture.png"
        )


def _request(args: argparse.Namespace, config: RunConfig, policy: LocalPolicy) -> PictureRequest:
    from alphagrpo.ports import PictureRequest
    from alphagrpo.types import Prompt

    prompt = Prompt(id="prompt", text=args.text.strip())
    if args.image is None:
        return PictureRequest(prompt=prompt, seed=args.seed)
    from alphagrpo.images import decode_image

    try:
        pixels = decode_image(args.image.read_bytes())
    except FileNotFoundError:
        raise BadImage(f"the picture must exist, {args.image} does not; check the path") from None
    start = policy.encode(pixels)
    return PictureRequest(prompt=prompt, seed=args.seed, start=start, purpose="edit")


async def _rounds(
    args: argparse.Namespace,
    config: RunConfig,
    policy: LocalPolicy,
    request: PictureRequest,
    narrator: Narrator,
) -> list[Round]:
    from alphagrpo.rollout.rounds import draw_rounds

    score = None
    if args.refine and args.gate == "dvreward":
        from services.scoring import connect_scorer

        score = connect_scorer(config.services, config.reward)
    rounds: list[Round] = []
    async for one in draw_rounds(
        request,
        rounds=args.refine,
        gate=args.gate,
        draw=lambda requests: policy.draw(requests, version=-1),
        score=score,
    ):
        rounds.append(one)
        if not args.json:
            _tell(args, one, narrator)
    return rounds


def _tell(args: argparse.Namespace, one: Round, narrator: Narrator) -> None:
    say = narrator.console
    if args.refine:
        name = "draft" if one.index == 0 else f"round {one.index}, from {_name(one.refined_from)}"
        verdict = "" if one.index == 0 else (" - kept" if one.kept else " - not kept")
        score = f"  {one.score.value:.3f}" if one.score else ""
        say.print(f"\n{name}{score}{verdict}", markup=False, style="bold")
    say.print(one.picture.thought or "(no thought)", markup=False)
    for question, answer in one.score.answers() if one.score else ():
        p_yes = f"{answer.p_yes:.3f}" if answer.grade is None else f"{answer.grade} of 10"
        say.print(f"  {p_yes}  {question.text}", markup=False)


def _name(index: int | None) -> str:
    return "the draft" if not index else f"round {index}"


def _save(args: argparse.Namespace, rounds: Sequence[Round]) -> None:
    """The picture that is held at the end, and with rounds each of them beside it."""
    held = [one for one in rounds if one.kept][-1]
    _write(args, held, args.output)
    for one in rounds[: len(rounds) if args.refine else 0]:
        _write(args, one, _beside(args.output, one.index))
    if not args.json:
        height, width = (side * max(1, args.scale) for side in held.picture.pixels.shape[:2])
        Narrator().console.print(f"{args.output}  {width} x {height}", markup=False)


def _beside(output: Path, index: int) -> Path:
    return output.with_name(f"{output.stem}-round{index}{output.suffix}")


def _write(args: argparse.Namespace, one: Round, path: Path) -> None:
    from PIL import Image

    height, width = (side * max(1, args.scale) for side in one.picture.pixels.shape[:2])
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(one.picture.pixels).resize((width, height), Image.Resampling.NEAREST)
    image.save(path)


def _as_json(args: argparse.Namespace, rounds: Sequence[Round]) -> dict[str, Any]:
    held = [one for one in rounds if one.kept][-1]
    return {
        "thought": held.picture.thought,
        "kept_round": held.index,
        "rounds": [
            {
                "index": one.index,
                "seed": one.seed,
                "thought": one.picture.thought,
                "kept": one.kept,
                "refined_from": one.refined_from,
                "picture": str(_beside(args.output, one.index) if args.refine else args.output),
                "score": one.score.value if one.score else None,
                "verdicts": _verdicts(one),
            }
            for one in rounds
        ],
    }


def _verdicts(one: Round) -> list[dict[str, Any]]:
    if one.score is None:
        return []
    return [
        {
            "question": question.text,
            "kind": question.kind,
            "p_yes": verdict.p_yes,
            "grade": verdict.grade,
        }
        for question, verdict in one.score.answers()
    ]
