"""``alphagrpo decompose``: the questions a prompt is broken into."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from alphagrpo.cli.console import Narrator, print_json, print_table
from alphagrpo.cli.serving import DEFAULT_SERVE_CONFIG, serving
from alphagrpo.errors import ConfigError, NoQuestions

if TYPE_CHECKING:
    from alphagrpo.types import Prompt, QuestionSet

HELP = "break prompts into yes/no questions"
REFUSED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("text", nargs="?", metavar="TEXT", help="one prompt")
    parser.add_argument("--file", type=Path, help="a .txt or .jsonl prompt file instead")
    parser.add_argument("--store", type=Path, help="keep the question sets in this folder")
    parser.add_argument("--serve-config", type=Path, default=DEFAULT_SERVE_CONFIG)
    parser.add_argument("--app", default="decomposer", help="name of the Serve application")
    parser.add_argument("--json", action="store_true", help="one JSON object per prompt")


def run(args: argparse.Namespace) -> int:
    """Print each prompt's questions; exit code 1 where one of them has none."""
    prompts = _prompts(args)
    narrator = Narrator(aside=args.json)
    with serving(args.serve_config, narrator, [args.app]):
        from services.client import connect_decomposer

        client = connect_decomposer(
            app=args.app, question_store=str(args.store) if args.store else None
        )
        return asyncio.run(_decompose_all(client, prompts, narrator, as_json=args.json))


def _prompts(args: argparse.Namespace) -> tuple[Prompt, ...]:
    from alphagrpo.data.prompts import read_prompt_file
    from alphagrpo.types import Prompt

    if (args.text is None) == (args.file is None):
        raise ConfigError("decompose takes a prompt or --file, got both or neither; give one")
    if args.file is not None:
        return read_prompt_file(args.file)
    if not args.text.strip():
        raise ConfigError("a prompt must hold a word, got an empty one; write what to draw")
    return (Prompt(id="prompt", text=args.text.strip()),)


async def _decompose_all(
    client: object, prompts: tuple[Prompt, ...], narrator: Narrator, *, as_json: bool
) -> int:
    refused = 0
    for prompt in prompts:
        try:
            question_set = await client.decompose(prompt)  # type: ignore[attr-defined]
            show_questions(question_set, narrator, as_json=as_json)
        except NoQuestions as error:
            refused += 1
            narrator.say(f"no questions for {prompt.text!r}: {error}", prompt=prompt.text)
    return REFUSED if refused else 0


def show_questions(question_set: QuestionSet, narrator: Narrator, *, as_json: bool) -> None:
    """Print one question set as a table or a JSON object."""
    if as_json:
        print_json(
            {
                "prompt": question_set.prompt,
                "revision": question_set.revision,
                "questions": [
                    {
                        "id": q.id,
                        "question": q.text,
                        "kind": q.kind,
                        "tag": q.tag,
                        "depends_on": list(q.depends_on),
                    }
                    for q in question_set.questions
                ],
            }
        )
        return
    rows = [(q.id, q.tag, q.text, ", ".join(q.depends_on)) for q in question_set.questions]
    columns = ("id", "aspect", "question", "needs")
    print_table(
        narrator.console, f"{question_set.prompt}  ({question_set.revision})", rows, columns
    )
