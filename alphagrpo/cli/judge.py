"""``alphagrpo judge``: what the verifier says of a picture, and the reward that makes."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from alphagrpo.cli.console import Narrator, print_json, print_table
from alphagrpo.cli.serving import DEFAULT_SERVE_CONFIG, serving
from alphagrpo.errors import BadImage, ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.algorithms.rewards import RewardProgram
    from alphagrpo.types import Question, Score, Verdict

HELP = "ask the verifier about a picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="a PNG or JPEG file")
    parser.add_argument("--prompt", help="score the picture against this prompt")
    parser.add_argument("--question", action="append", default=[], help="ask this; may be repeated")
    parser.add_argument(
        "--program",
        default="dvreward",
        help="reward program for --prompt: dvreward, dvreward_binary, holistic, single_question, "
        "or package.module:Class (default: dvreward)",
    )
    parser.add_argument("--serve-config", type=Path, default=DEFAULT_SERVE_CONFIG)
    parser.add_argument("--json", action="store_true", help="one JSON object for a machine")


def run(args: argparse.Namespace) -> int:
    """Print P(yes) or grade per question and, with ``--prompt``, the score."""
    if not args.prompt and not args.question:
        raise ConfigError("judge needs something to ask, got neither --prompt nor --question")
    from alphagrpo.algorithms.rewards import asks_the_set, load_reward_program
    from alphagrpo.judging.images import decode_image

    program = load_reward_program(args.program) if args.prompt else None
    try:
        pixels = decode_image(args.image.read_bytes())
    except FileNotFoundError:
        raise BadImage(f"the picture must exist, {args.image} does not; check the path") from None
    narrator = Narrator(aside=args.json)
    decomposed = program is not None and asks_the_set(program)
    apps = ["decomposer", "verifier"] if decomposed else ["verifier"]
    with serving(args.serve_config, narrator, apps):
        questions, verdicts, score = asyncio.run(_ask(args, pixels, program))
    _show(args, questions, verdicts, score, narrator)
    return 0


async def _ask(
    args: argparse.Namespace, pixels: NDArray[np.uint8], program: RewardProgram | None
) -> tuple[tuple[Question, ...], tuple[Verdict, ...], Score | None]:
    from alphagrpo.algorithms.rewards import asks_the_set
    from alphagrpo.types import Prompt, Question, QuestionSet
    from services.client import connect_decomposer, connect_verifier

    own = tuple(
        Question(id=f"s{index}", text=text, kind="semantic", tag="Asked")
        for index, text in enumerate(args.question)
    )
    verifier = connect_verifier()
    if program is None:
        return own, await verifier.verify(pixels, own), None
    if asks_the_set(program):
        made = await connect_decomposer().decompose(Prompt(id="prompt", text=args.prompt))
    else:
        made = QuestionSet(prompt=args.prompt, questions=(), revision="none")
    asked = program.questions(made)
    verdicts = await verifier.verify(pixels, asked)
    return asked, verdicts, program.score(made, verdicts)


def _show(
    args: argparse.Namespace,
    questions: tuple[Question, ...],
    verdicts: tuple[Verdict, ...],
    score: Score | None,
    narrator: Narrator,
) -> None:
    pairs = list(zip(questions, verdicts, strict=True))
    if args.json:
        answers = [
            {
                "question": q.text,
                "kind": q.kind,
                "form": q.form,
                "p_yes": v.p_yes,
                "grade": v.grade,
            }
            for q, v in pairs
        ]
        value = None
        if score is not None:
            value = {
                "semantic": score.semantic,
                "quality": score.quality,
                "reward": score.reward,
                "program": score.program,
                "aggregate": score.aggregate,
                "revision": score.revision,
            }
        print_json({"answers": answers, "score": value, "judge": verdicts[0].judge})
        return
    rows = [(_answer(v), _bar(v.p_yes), q.tag, q.text) for q, v in pairs]
    title = f"{args.image}  ({verdicts[0].judge})"
    print_table(narrator.console, title, rows, ("answer", "", "aspect", "question"))
    if score is not None:
        quality = "not asked" if score.quality is None else f"{score.quality:.3f}"
        narrator.console.print(
            f"{score.program} {score.reward:.3f}  "
            f"(semantic {score.semantic:.3f}, quality {quality})"
        )


def _answer(verdict: Verdict) -> str:
    return f"{verdict.p_yes:.3f}" if verdict.grade is None else f"{verdict.grade} of 10"


def _bar(share: float, width: int = 20) -> str:
    filled = round(share * width)
    return "█" * filled + "·" * (width - filled)
