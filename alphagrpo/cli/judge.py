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

    from alphagrpo.rewards.programs import RewardProgram
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
    from alphagrpo.images import decode_image
    from alphagrpo.rewards.programs import asks_the_set, load_reward_program

    program = load_reward_program(args.program) if args.prompt else None
    try:
        pixels = decode_image(args.image.read_bytes())
    except FileNotFoundError:
        raise BadImage(f"the picture must exist, {args.image} does not; check the path") from None
    narrator = Narrator(aside=args.json)
    decomposed = program is not None and asks_the_set(program)
    apps = ["decomposer", "verifier"] if decomposed else ["verifier"]
    with serving(args.serve_config, narrator, apps):
        answers, score = asyncio.run(_ask(args, pixels, program))
    _show(args, answers, score, narrator)
    return 0


async def _ask(
    args: argparse.Namespace, pixels: NDArray[np.uint8], program: RewardProgram | None
) -> tuple[tuple[tuple[Question, Verdict], ...], Score | None]:
    """Questions with their verdicts, and with a program the score they make."""
    from alphagrpo.rewards.judging import judge_picture, questions_for
    from alphagrpo.types import Prompt, Question
    from services.client import connect_decomposer, connect_verifier

    verifier = connect_verifier()
    if program is None:
        questions = tuple(
            Question(id=f"s{index}", text=text, kind="semantic", tag="Asked")
            for index, text in enumerate(args.question)
        )
        verdicts = await verifier.verify(pixels, questions)
        return tuple(zip(questions, verdicts, strict=True)), None
    prompt = Prompt(id="prompt", text=args.prompt)
    question_set = await questions_for(program, prompt, connect_decomposer())
    score = await judge_picture(program, question_set, pixels, verifier)
    return score.answers(), score


def _show(
    args: argparse.Namespace,
    answers: tuple[tuple[Question, Verdict], ...],
    score: Score | None,
    narrator: Narrator,
) -> None:
    judge = answers[0][1].judge
    if args.json:
        records = [
            {
                "question": question.text,
                "kind": question.kind,
                "form": question.form,
                "p_yes": verdict.p_yes,
                "grade": verdict.grade,
            }
            for question, verdict in answers
        ]
        value = None
        if score is not None:
            value = {
                "semantic": score.semantic,
                "quality": score.quality,
                "reward": score.value,
                "program": score.program,
                "aggregate": score.aggregate,
                "revision": score.revision,
            }
        print_json({"answers": records, "score": value, "judge": judge})
        return
    rows = [(_answer(v), _bar(v.p_yes), q.tag, q.text) for q, v in answers]
    title = f"{args.image}  ({judge})"
    print_table(narrator.console, title, rows, ("answer", "", "aspect", "question"))
    if score is not None:
        quality = "not asked" if score.quality is None else f"{score.quality:.3f}"
        narrator.console.print(
            f"{score.program} {score.value:.3f}  (semantic {score.semantic:.3f}, quality {quality})"
        )


def _answer(verdict: Verdict) -> str:
    return f"{verdict.p_yes:.3f}" if verdict.grade is None else f"{verdict.grade} of 10"


def _bar(share: float, width: int = 20) -> str:
    filled = round(share * width)
    return "█" * filled + "·" * (width - filled)
