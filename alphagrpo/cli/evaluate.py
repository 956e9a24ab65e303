"""``alphagrpo evaluate``: the held-out figures of a checkpoint."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphagrpo.cli.console import Narrator, print_json, print_table
from alphagrpo.report.cells import ABSENT, points_cell, reward_cell, share_cell

if TYPE_CHECKING:
    from alphagrpo.cli.local_policy import LocalPolicy
    from alphagrpo.config import RunConfig
    from alphagrpo.eval.figures import RoundFigures, SortFigures
    from alphagrpo.eval.heldout import HeldOutJudges
    from alphagrpo.eval.lines import HeldOutLine

HELP = "evaluate a checkpoint on held-out prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a run config (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", dest="overrides")
    parser.add_argument("--checkpoint", type=Path, help="default: the model as it is")
    parser.add_argument("--dvreward", action="store_true", help="ask the verifier as well")
    parser.add_argument(
        "--edits",
        type=int,
        default=0,
        metavar="N",
        help="also judge N edits (a world with an oracle)",
    )
    parser.add_argument("--output", type=Path, help="write a line per prompt (JSON lines) here")
    parser.add_argument("--json", action="store_true", help="one JSON object for a machine")


def run(args: argparse.Namespace) -> int:
    """Draw the held-out pictures, judge them, print the figures by sort of prompt."""
    from alphagrpo.cli.local_policy import LocalPolicy
    from alphagrpo.cli.serving import serving
    from alphagrpo.config import load_config

    config = load_config(args.config, args.overrides)
    _check(args, config)
    narrator = Narrator(aside=args.json)
    services = config.services
    apps = [services.decomposer_app, services.verifier_app]
    context: Any = nullcontext()
    if args.dvreward and services.serve_config is not None:
        context = serving(services.serve_config, narrator, apps)
    with narrator.stage("loading the policy"):
        policy = LocalPolicy(config, args.checkpoint)
    with context:
        lines = _evaluate(config, policy, narrator, services=args.dvreward)
    edits = _edits(args, config, policy, narrator)
    show(args, lines, edits, narrator)
    return 0


def _check(args: argparse.Namespace, config: RunConfig) -> None:
    """Raise ConfigError for what would fail after the policy was loaded and pictures drawn."""
    from alphagrpo.data import check_source
    from alphagrpo.data.prompts import WORLD_PREFIX
    from alphagrpo.errors import ConfigError

    check_source(config.data.heldout)
    if args.dvreward and config.services.serve_config is None:
        raise ConfigError(
            "--dvreward needs services.serve_config in the run config, got none; name the Serve "
            "file there, or leave --dvreward out"
        )
    if args.edits and not config.data.heldout.startswith(WORLD_PREFIX):
        raise ConfigError(
            "--edits needs a world with an oracle, the run's held-out prompts are "
            f"{config.data.heldout}; leave --edits out"
        )


def judges_of(config: RunConfig, *, services: bool) -> HeldOutJudges:
    """Oracle of the held-out world; with ``services`` also decomposer and verifier."""
    from alphagrpo.eval.heldout import HeldOutJudges
    from alphagrpo.eval.oracles import oracle_for, reflection_oracle_for
    from alphagrpo.rewards.programs import configured_program

    source = config.data.heldout
    oracle, reflection = oracle_for(source), reflection_oracle_for(source)
    if not services:
        return HeldOutJudges(oracle=oracle, reflection=reflection)
    from services.client import connect_decomposer, connect_verifier

    store = config.folder / "questions"
    return HeldOutJudges(
        oracle=oracle,
        reflection=reflection,
        decomposer=connect_decomposer(**config.services.decomposer_options(store)),
        verifier=connect_verifier(**config.services.verifier_options()),
        program=configured_program(config.reward),
    )


def _evaluate(
    config: RunConfig, policy: LocalPolicy, narrator: Narrator, *, services: bool
) -> list[HeldOutLine]:
    from alphagrpo.data import load_heldout
    from alphagrpo.eval.heldout import evaluate

    settings = config.evaluation
    prompts = load_heldout(
        config.data.heldout,
        num_plain=settings.num_plain,
        num_thought=settings.num_thought,
        seed=config.seed,
    )
    with narrator.counted("pictures", len(prompts)) as tell:
        return asyncio.run(
            evaluate(
                policy,
                prompts,
                judges_of(config, services=services),
                version=-1,
                seed=config.seed,
                batch_size=settings.batch_size,
                rounds=settings.rounds,
                on_progress=lambda done, of: tell(done),
            )
        )


def _edits(
    args: argparse.Namespace, config: RunConfig, policy: LocalPolicy, narrator: Narrator
) -> dict[str, float]:
    """The edit benchmark of the run's world; empty where none is asked for."""
    if not args.edits:
        return {}
    from alphagrpo.eval.edits import edit_benchmark

    with narrator.stage(f"judging {args.edits} edits"):
        return edit_benchmark(policy.model, policy.tokenizer, args.edits, config.seed)


def show(
    args: argparse.Namespace,
    lines: list[HeldOutLine],
    edits: dict[str, float],
    narrator: Narrator,
) -> None:
    """Write the lines where ``--output`` says, and print their figures."""
    from alphagrpo.eval.figures import summarise
    from alphagrpo.json_records import to_json
    from alphagrpo.record.jsonl import json_lines

    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json_lines(map(to_json, lines)), encoding="utf-8")
    figures = summarise(lines)
    if args.json:
        print_json(to_json(figures) | ({"edits": edits} if edits else {}))
        return
    rows = [(sort, *evaluation_cells(of_sort)) for sort, of_sort in figures.items()]
    print_table(narrator.console, "held-out prompts", rows, EVALUATION_COLUMNS)
    for sort, of_sort in figures.items():
        if of_sort.refined:
            rows = round_rows(of_sort.refined)
            print_table(narrator.console, f"{sort} prompts refined", rows, ROUND_COLUMNS)
    if edits:
        print_table(narrator.console, f"{args.edits} edits", edit_rows(edits))


EVALUATION_COLUMNS = ("prompts", "n", "all right", "95 %", "strict", "per question", "DVReward")


def evaluation_cells(figures: SortFigures) -> tuple[str, ...]:
    """The figures of one sort as table cells; a dash where there is none."""
    interval = figures.all_right_interval
    return (
        str(figures.n),
        share_cell(figures.all_right),
        " - ".join(map(share_cell, interval)) if interval else ABSENT,
        share_cell(figures.strict),
        share_cell(figures.per_question),
        reward_cell(figures.dvreward),
    )


def edit_rows(edits: dict[str, float]) -> list[tuple[str, str]]:
    """Figures of the edit benchmark as table cells: how many edits, then shares of them."""
    shares = {key: value for key, value in edits.items() if key != "edit.n"}
    rows = [(key.removeprefix("edit."), share_cell(value)) for key, value in shares.items()]
    return [("n", f"{edits['edit.n']:.0f}"), *rows]


ROUND_COLUMNS = ("round", "all right", "gain", "DVReward", "mended", "broken", "defect named")


def round_rows(rounds: RoundFigures) -> list[tuple[str, ...]]:
    """Figures of every round and chain as table cells."""
    return [
        (
            f"{name.removeprefix('round')}, {chain}",
            share_cell(figures.all_right),
            points_cell(figures.all_right_gain.mean if figures.all_right_gain else None),
            reward_cell(figures.dvreward),
            share_cell(figures.mended),
            share_cell(figures.broken),
            share_cell(figures.named),
        )
        for name, chains in rounds.items()
        for chain, figures in chains.items()
    ]
