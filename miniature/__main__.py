"""``python -m miniature``: make the miniature models again and measure them; check the oracle."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alphagrpo.cli.console import Narrator, make_console, print_json, print_table
from alphagrpo.cli.main import USER_ERROR
from alphagrpo.errors import ConfigError, MeshError
from miniature.progress import ProgressLines

DESCRIPTION = "make the miniature models again and measure them; check the oracle"
MODELS = ("policy", "decomposer", "verifier", "autoencoder")
THREADS = 2
"""What the recipes' time budgets are meant for; models this small gain nothing from many more."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="python -m miniature", description=DESCRIPTION)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    pretrain = actions.add_parser("pretrain", help="train a miniature model (resumable)")
    pretrain.add_argument("model", choices=MODELS)
    pretrain.add_argument("--output", type=Path, help="folder (default deploy/models/MODEL)")
    pretrain.add_argument("--minutes", type=float, help="time budget in place of the recipe's")
    pretrain.add_argument("--steps", type=int, help="optimizer steps in place of the recipe's")
    pretrain.add_argument("--start", type=Path, help="policy: continue from this folder's weights")
    pretrain.add_argument(
        "--no-copies", action="store_true", help="policy: the start can copy pictures already"
    )
    pretrain.add_argument("--seed", type=int, default=0)
    pretrain.add_argument(
        "--threads", type=int, default=THREADS, help="cores to use (default %(default)s)"
    )
    pretrain.add_argument("--resume", action="store_true", help="go on where it was interrupted")
    evaluate = actions.add_parser("evaluate", help="measure a miniature model")
    evaluate.add_argument("model", choices=MODELS[:3])
    evaluate.add_argument("--folder", type=Path, help="default deploy/models/MODEL")
    evaluate.add_argument("--num", type=int, default=512, help="prompts or pictures")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument(
        "--skills",
        action="store_true",
        help="policy: captions, comparisons, edits and untrained refinements instead of prompts",
    )
    evaluate.add_argument(
        "--policy", type=Path, help="verifier: measure on pictures that this policy draws"
    )
    evaluate.add_argument(
        "--pictures",
        type=Path,
        help="verifier: folder to write the policy's pictures to; alone, to read pictures from",
    )
    oracle = actions.add_parser("oracle", help="how often the oracle is right, per question type")
    oracle.add_argument("--num", type=int, default=2000, help="clean renders")
    oracle.add_argument("--seed", type=int, default=0)
    for action in (evaluate, oracle):
        action.add_argument("--json", action="store_true", help="one JSON object for a machine")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one action and return its exit code; a user's mistake is one line, not a traceback."""
    args = build_parser().parse_args(arguments)
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "pretrain": _pretrain,
        "evaluate": _evaluate,
        "oracle": _oracle,
    }
    try:
        return actions[args.action](args)
    except MeshError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        remedy = "pip install -e '.[miniature]'"
        print(
            f"error: miniature models need transformers, which is absent; {remedy}", file=sys.stderr
        )
        return USER_ERROR


def _pretrain(args: argparse.Namespace) -> int:
    import torch

    if args.threads < 1:
        raise ConfigError(f"--threads is 1 or more, got {args.threads}; leave it out for {THREADS}")
    torch.set_num_threads(args.threads)
    output = args.output or Path("deploy/models") / args.model
    narrator = Narrator()
    narrator.say(f"training the {args.model} into {output}")
    PRETRAIN[args.model](args, output, ProgressLines(narrator))
    narrator.say(f"{args.model}: written to {output}")
    return 0


def _pretrain_policy(args: argparse.Namespace, output: Path, show: ProgressLines) -> None:
    from miniature.policy.pretrain import pretrain_policy

    pretrain_policy(
        output,
        minutes=args.minutes,
        steps=args.steps,
        start=args.start,
        copies=not args.no_copies,
        seed=args.seed,
        resume=args.resume,
        progress=lambda stage, progress: show(progress, stage),
    )


def _pretrain_autoencoder(args: argparse.Namespace, output: Path, show: ProgressLines) -> None:
    from safetensors.torch import save_file

    from miniature.policy.autoencoder import pretrain_autoencoder

    autoencoder = pretrain_autoencoder(
        minutes=args.minutes,
        steps=args.steps,
        seed=args.seed,
        resume=args.resume,
        checkpoint=output / "training",
        progress=show,
    )
    output.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in autoencoder.official_state().items()}
    save_file(state, output / "ae.safetensors")


def _pretrain_decomposer(args: argparse.Namespace, output: Path, show: ProgressLines) -> None:
    from miniature.decomposer import pretrain_decomposer

    pretrain_decomposer(output, **_common(args), progress=show)


def _pretrain_verifier(args: argparse.Namespace, output: Path, show: ProgressLines) -> None:
    from miniature.verifier.pretrain import pretrain_verifier

    pretrain_verifier(output, **_common(args), progress=show)


def _common(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "minutes": args.minutes,
        "steps": args.steps,
        "seed": args.seed,
        "resume": args.resume,
    }


PRETRAIN: dict[str, Callable[..., None]] = {
    "policy": _pretrain_policy,
    "autoencoder": _pretrain_autoencoder,
    "decomposer": _pretrain_decomposer,
    "verifier": _pretrain_verifier,
}


def _evaluate(args: argparse.Namespace) -> int:
    folder = args.folder or Path("deploy/models") / args.model
    pictures = _picture_options(args)
    evaluator = _evaluator(args.model, args.skills)
    with Narrator(aside=True).stage(f"measuring {folder}, {args.num:,} cases of each sort"):
        figures = evaluator(folder, n=args.num, seed=args.seed, **pictures)
    if args.json:
        print_json({"model": args.model, **figures})
    else:
        rows = [(name, f"{value:.4f}") for name, value in figures.items()]
        print_table(make_console(), f"{args.model} in {folder}", rows)
    return 0


def _picture_options(args: argparse.Namespace) -> dict[str, Path]:
    """The options that name pictures to measure a verifier on."""
    options = {name: getattr(args, name) for name in ("policy", "pictures") if getattr(args, name)}
    if options and args.model != "verifier":
        raise ConfigError(
            f"--policy and --pictures are for a verifier, got {args.model}; leave them out"
        )
    return options


def _evaluator(model: str, skills: bool) -> Callable[..., dict[str, float]]:
    if skills and model != "policy":
        raise ConfigError(f"--skills are the policy's, got {model}; leave the option out")
    if model == "verifier":
        from miniature.verifier.evaluate import evaluate_verifier

        return evaluate_verifier
    if model == "decomposer":
        from miniature.decomposer import evaluate_decomposer

        return evaluate_decomposer
    if skills:
        from miniature.policy.skills import evaluate_skills

        return evaluate_skills
    from miniature.policy.evaluate import evaluate_policy

    return evaluate_policy


def _oracle(args: argparse.Namespace) -> int:
    from miniature.oracle_check import check_oracle

    tallies = check_oracle(args.num, args.seed)
    if args.json:
        print_json({name: {**t._asdict(), "accuracy": t.accuracy} for name, t in tallies.items()})
        return 0
    rows = [(n, f"{t.asked:,}", f"{t.accuracy:.4%}", f"{t.yes:,}") for n, t in tallies.items()]
    title = f"oracle on {args.num:,} clean renders and as many with a flaw"
    print_table(make_console(), title, rows, ("question type", "asked", "right", "in truth yes"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
