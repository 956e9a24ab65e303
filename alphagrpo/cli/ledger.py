"""``alphagrpo ledger RUN``: what the ledger of a run answers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphagrpo.cli.console import make_console, print_json, print_table
from alphagrpo.errors import ConfigError
from alphagrpo.report.cells import ABSENT, reward_cell, share_cell

if TYPE_CHECKING:
    from rich.console import Console

    from alphagrpo.record.folder import RunFolder
    from alphagrpo.record.losses import LossFigures
    from alphagrpo.record.queries import PromptFigures, QuestionFigures, TagBin
    from alphagrpo.record.scan import Span
    from alphagrpo.record.stories import Story

HELP = "ask a run's ledger: worst questions, contested prompts, tags over time, losses, one sample"
TOPICS = ("questions", "prompts", "tags", "losses")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder: runs/<name>")
    parser.add_argument(
        "topic",
        nargs="?",
        choices=TOPICS,
        metavar="TOPIC",
        help=f"one of {', '.join(TOPICS)} (default: all)",
    )
    parser.add_argument(
        "--sample",
        metavar="STEP/GROUP/SAMPLE",
        help="one sample's whole story; STEP/GROUP/d0 for a draft, STEP/GROUP for a whole group",
    )
    parser.add_argument("--steps", default=":", metavar="A:B", help="only these steps")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="lines per table (10)")
    parser.add_argument(
        "--at-least", type=int, default=10, metavar="N", help="answers a question needs (10)"
    )
    parser.add_argument("--bins", type=int, default=6, metavar="N", help="stretches of steps (6)")
    parser.add_argument("--json", action="store_true", help="one JSON object for a machine")


def run(args: argparse.Namespace) -> int:
    """Print the tables of the topics, or the story of a sample."""
    from alphagrpo.record.folder import RunFolder

    folder = RunFolder.open(args.run_folder)
    if args.sample:
        _tell_stories(args, folder)
    else:
        _answer(args, folder, parse_span(args.steps))
    return 0


def parse_span(text: str) -> Span:
    """``A:B``, both included and either left out; ConfigError for anything else."""
    from alphagrpo.record.scan import Span

    first, colon, last = text.partition(":")
    numbers = [part for part in (first, last) if part]
    if not colon or not all(part.isdecimal() for part in numbers):
        raise ConfigError(
            f"steps are given as A:B, either of which may be left out, got {text!r}; write for "
            "example 100:200"
        )
    return Span(int(first) if first else None, int(last) if last else None)


def _answer(args: argparse.Namespace, folder: RunFolder, span: Span) -> None:
    from alphagrpo.json_records import to_json
    from alphagrpo.record.losses import Losses
    from alphagrpo.record.queries import ContestedPrompts, TagHistory, WorstQuestions
    from alphagrpo.record.scan import Query, ask

    questions, prompts, tags, losses = WorstQuestions(), ContestedPrompts(), TagHistory(), Losses()
    topics: dict[str, Query] = dict(zip(TOPICS, (questions, prompts, tags, losses), strict=True))
    chosen = TOPICS if args.topic is None else (args.topic,)
    ask(folder, [topics[name] for name in chosen], span)
    figures: dict[str, Any] = {
        "questions": lambda: questions.figures(args.at_least)[: args.top],
        "prompts": lambda: prompts.figures()[: args.top],
        "tags": lambda: tags.figures(args.bins),
        "losses": losses.figures,
    }
    if args.json:
        print_json({name: to_json(figures[name]()) for name in chosen})
        return
    console = make_console()
    show: dict[str, Callable[[Console, Any], None]] = {
        "questions": _show_questions,
        "prompts": _show_prompts,
        "tags": _show_tags,
        "losses": lambda console, losses: _show_losses(console, losses, top=args.top),
    }
    for name in chosen:
        show[name](console, figures[name]())


def _show_questions(console: Console, lines: Sequence[QuestionFigures]) -> None:
    rows = [
        (
            share_cell(line.no_share),
            reward_cell(line.p_yes),
            str(line.answered),
            str(line.asked - line.answered),
            line.tag,
            line.question,
        )
        for line in lines
    ]
    columns = ("no", "P(yes)", "answers", "none", "tag", "question")
    print_table(console, "worst questions", rows, columns)


def _show_prompts(console: Console, lines: Sequence[PromptFigures]) -> None:
    rows = [
        (
            reward_cell(line.spread),
            f"{line.low:.3f} - {line.high:.3f}",
            reward_cell(line.reward),
            str(line.groups),
            line.widest,
            line.prompt,
        )
        for line in lines
    ]
    columns = ("spread", "rewards", "mean", "groups", "widest", "prompt")
    print_table(console, "most contested prompts", rows, columns)


def _show_tags(console: Console, bins: Sequence[TagBin]) -> None:
    tags = sorted({tag for part in bins for tag in part.p_yes})
    rows = [
        ("reward", *(reward_cell(part.reward) for part in bins)),
        ("score", *(reward_cell(part.score) for part in bins)),
        *((tag, *(reward_cell(part.p_yes.get(tag)) for part in bins)) for tag in tags),
    ]
    columns = ("mean P(yes)", *(f"{part.first}-{part.last}" for part in bins))
    print_table(console, "reward by tag over steps", rows, columns)


def _show_losses(console: Console, losses: LossFigures, *, top: int) -> None:
    unscored = losses.drawn - losses.scored
    console.print(
        f"[bold]losses[/bold]: {unscored:,} of {losses.drawn:,} samples without a score, "
        f"{len(losses.dropped):,} groups not trained on, {len(losses.skipped):,} prompts skipped"
    )
    reasons = [(f"{count:,}", reason) for reason, count in losses.reasons.items()]
    if reasons:
        print_table(console, "no score because", reasons[:top], ("samples", "reason"))
    groups = [
        (f"{lost.step}/{lost.group}", f"{lost.scored} of {lost.drawn}", lost.prompt, lost.reason)
        for lost in losses.dropped
    ]
    if groups:
        title = _title("groups not trained on", groups, top)
        print_table(console, title, groups[:top], ("group", "scored", "prompt", "reason"))
    prompts = [
        (str(lost.step), lost.prompt or lost.prompt_id, lost.reason) for lost in losses.skipped
    ]
    if prompts:
        title = _title("prompts skipped", prompts, top)
        print_table(console, title, prompts[:top], ("step", "prompt", "reason"))


def _title(text: str, rows: Sequence[Any], top: int) -> str:
    return f"{text} (the first {top} of {len(rows)})" if len(rows) > top else text


def _tell_stories(args: argparse.Namespace, folder: RunFolder) -> None:
    from alphagrpo.json_records import to_json
    from alphagrpo.record.stories import Reference, stories

    told = stories(folder, Reference.parse(args.sample))
    if args.json:
        print_json([to_json(story) for story in told])
        return
    console = make_console()
    for story in told:
        print_table(console, story.name, story_rows(story))
        rows = [(_answer_cell(q.p_yes, q.grade), q.kind, q.tag, q.text) for q in story.questions]
        print_table(console, "questions", rows, ("answer", "kind", "tag", "question"))


def story_rows(story: Story) -> list[tuple[str, str]]:
    """What is known of a sample apart from its questions, as table cells."""
    rows = [
        ("prompt", f"{story.prompt}  ({story.prompt_id})"),
        ("thought", story.thought or ABSENT),
        ("picture", story.picture_path or f"{story.picture or ABSENT} (not kept)"),
    ]
    if story.draft is not None:
        rows.append(("draft", story.draft_path or f"{story.draft} (not kept)"))
        rows.append(("score of the draft", reward_cell(story.draft_score)))
    rows += [
        ("score", reward_cell(story.score) if story.score is not None else story.invalid_reason),
        ("semantic, quality", f"{reward_cell(story.semantic)}, {reward_cell(story.quality)}"),
        ("reward", reward_cell(story.reward)),
        ("advantage", _signed(story.advantage)),
        ("judge", story.judge or ABSENT),
        ("program", f"{story.program or ABSENT}, {story.aggregate or ABSENT}"),
        ("questions by", story.questions_revision or ABSENT),
        ("task, weights", f"{story.task}, version {story.policy_version}"),
    ]
    return rows


def _answer_cell(p_yes: float | None, grade: int | None) -> str:
    return reward_cell(p_yes) if grade is None else f"{grade} of 10"


def _signed(advantage: float | None) -> str:
    return "not trained on" if advantage is None else f"{advantage:+.3f}"
