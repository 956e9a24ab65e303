"""``alphagrpo rescore RUN``: what another judge, or another reward, would have changed."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from alphagrpo.cli.console import Narrator, print_json, print_table
from alphagrpo.cli.ledger import parse_span
from alphagrpo.errors import ConfigError
from alphagrpo.options import Aggregate, Kinds
from alphagrpo.report.cells import ABSENT, reward_cell, share_cell

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.eval.rescored import PairedGroup, RescoreFigures
    from alphagrpo.ports import Verifier
    from alphagrpo.record.folder import RunFolder
    from alphagrpo.record.rescoring import RescoredGroup, Rescorer
    from alphagrpo.rewards.programs import RewardProgram

HELP = "score a run's kept pictures again, by another judge or another reward program"
ORACLE = "oracle"
TOKEN_VARIABLE = "ALPHAGRPO_GATEWAY_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder: runs/<name>")
    parser.add_argument(
        "--judge",
        help=f"whom to ask about the kept pictures: a verifier's Serve application, a gateway's "
        f"http(s)://host:port (its token in {TOKEN_VARIABLE}), {ORACLE} for that of the run's "
        "world, or package.module:function that makes a verifier",
    )
    parser.add_argument("--program", help="reward program (default: the run's own)")
    parser.add_argument("--aggregate", choices=get_args(Aggregate), help="default: the run's own")
    parser.add_argument("--kinds", choices=get_args(Kinds), help="default: the run's own")
    parser.add_argument("--steps", default=":", metavar="A:B", help="only these steps")
    parser.add_argument(
        "--serve-config", type=Path, help="deploys the judge's application (default: the run's)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for a machine")


def run(args: argparse.Namespace) -> int:
    """Print how ranking and advantages would have changed."""
    from alphagrpo.config.load import parse_config
    from alphagrpo.record.folder import RunFolder

    settings = (args.program, args.aggregate, args.kinds)
    if args.judge is None and settings == (None, None, None):
        raise ConfigError(
            "rescoring needs another judge or another reward, got neither --judge nor --program, "
            "--aggregate or --kinds; name one"
        )
    folder = RunFolder.open(args.run_folder)
    config = parse_config(folder.config(), source=str(folder.path / "config.yaml"))
    narrator = Narrator(aside=args.json)
    context, make_verifier = _judge(args, config, narrator)
    program = _program(args, config)
    with context:
        outcome = asyncio.run(_rescore(args, folder, config, program, make_verifier, narrator))
    _show(args, outcome, narrator)
    return 0


def _program(args: argparse.Namespace, config: RunConfig) -> RewardProgram:
    from alphagrpo.rewards.programs import configure, load_reward_program

    return configure(
        load_reward_program(args.program or config.reward.program),
        aggregate=args.aggregate or config.reward.aggregate,
        kinds=args.kinds or config.reward.kinds,
    )


def _judge(args: argparse.Namespace, config: RunConfig, narrator: Narrator) -> tuple[Any, Any]:
    """What must be running while the judge is asked, and how a verifier is made then."""
    from alphagrpo.cli.serving import serving

    name, services = args.judge, config.services
    if name is None:
        return nullcontext(), lambda: None
    if name == ORACLE:
        return nullcontext(), lambda: _oracle(config)
    if name.startswith(("http://", "https://")):
        token = os.environ.get(TOKEN_VARIABLE)
        return nullcontext(), lambda: _client(url=name, token=token, **services.patience())
    if ":" in name:
        return nullcontext(), lambda: _made(name)
    serve_config = args.serve_config or services.serve_config
    if serve_config is None:
        raise ConfigError(
            f"the application {name!r} is deployed by a Serve config, the run has none; name it "
            "with --serve-config"
        )
    return serving(serve_config, narrator, [name]), lambda: _client(app=name, **services.patience())


def _oracle(config: RunConfig) -> Verifier:
    from alphagrpo.eval.world_verifier import world_verifier

    verifier = world_verifier(config.data.train)
    if verifier is None:
        raise ConfigError(
            f"the oracle is that of the run's world, prompts of {config.data.train} have none; "
            "choose another judge"
        )
    return verifier


def _client(**options: Any) -> Verifier:
    from services.client import connect_verifier

    return connect_verifier(**options)


def _made(path: str) -> Verifier:
    from actors.parts import Part

    verifier: Verifier = Part(path).make()
    return verifier


async def _rescore(
    args: argparse.Namespace,
    folder: RunFolder,
    config: RunConfig,
    program: RewardProgram,
    make_verifier: Any,
    narrator: Narrator,
) -> dict[str, Any]:
    from alphagrpo.eval.rescored import RescoreComparison
    from alphagrpo.record.rescoring import Rescorer

    changes_reward = (args.program, args.aggregate, args.kinds) != (None, None, None)
    rescorer = Rescorer(folder, config, program, make_verifier(), reuse=changes_reward)
    span = parse_span(args.steps)
    steps = [step for step in folder.ledger_steps() if step in span]
    comparison, counts, reasons = (
        RescoreComparison(config.algorithm),
        Counter[str](),
        Counter[str](),
    )
    with narrator.counted("steps", len(steps)) as tell:
        for number, step in enumerate(steps, start=1):
            groups = await rescorer.step(step)
            comparison.add([paired(group) for group in groups])
            _count(groups, counts, reasons)
            tell(number)
    return {
        "program": program.name,
        "judge": _judge_name(args, rescorer),
        "samples": counts["samples"],
        "rescored": counts["rescored"],
        "no_picture": counts["no_picture"],
        "reasons": dict(reasons.most_common()),
        "score": counts["score"] / counts["rescored"] if counts["rescored"] else None,
        "new_score": counts["new_score"] / counts["rescored"] if counts["rescored"] else None,
        "figures": comparison.figures(),
    }


def _judge_name(args: argparse.Namespace, rescorer: Rescorer) -> str:
    return rescorer.judge or args.judge or "the ledger's verdicts"


def paired(group: RescoredGroup) -> PairedGroup:
    """The samples of a group that have both rewards."""
    from alphagrpo.eval.rescored import PairedGroup

    both = [sample.rewards for sample in group.samples if sample.rewards is not None]
    return PairedGroup(
        name=group.name,
        task=group.task,
        prompt=group.prompt,
        old=[old for old, _ in both],
        new=[new for _, new in both],
    )


def _count(groups: list[RescoredGroup], counts: Any, reasons: Counter[str]) -> None:
    from alphagrpo.record.rescoring import NO_PICTURE

    for group in groups:
        for sample in group.samples:
            counts["samples"] += 1
            if sample.new_score is None:
                reasons[sample.reason] += 1
                counts["no_picture"] += sample.reason == NO_PICTURE
            elif sample.score is not None:
                counts["rescored"] += 1
                counts["score"] += sample.score
                counts["new_score"] += sample.new_score


def _show(args: argparse.Namespace, outcome: dict[str, Any], narrator: Narrator) -> None:
    from alphagrpo.json_records import to_json

    if args.json:
        print_json({**outcome, "figures": to_json(outcome["figures"])})
        return
    console, figures = narrator.console, outcome["figures"]
    title = f"{args.run_folder} scored again: {outcome['program']} by {outcome['judge']}"
    print_table(console, title, figure_rows(outcome, figures))
    if outcome["reasons"]:
        rows = [(f"{count:,}", reason) for reason, count in outcome["reasons"].items()]
        print_table(console, "no new score because", rows, ("samples", "reason"))
    changed = [(f"{one.kendall:+.2f}", one.name, one.prompt) for one in figures.most_changed]
    if changed:
        print_table(console, "rankings that changed most", changed, ("tau-b", "group", "prompt"))


def figure_rows(outcome: dict[str, Any], figures: RescoreFigures) -> list[tuple[str, str]]:
    """What changed, as table cells."""
    return [
        (
            "samples",
            f"{outcome['samples']:,} trained on or in their groups, {outcome['rescored']:,} scored "
            f"again, {outcome['no_picture']:,} without a kept picture",
        ),
        (
            "mean score",
            f"{reward_cell(outcome['score'])} as recorded, {reward_cell(outcome['new_score'])} now",
        ),
        ("groups compared", f"{figures.groups:,}, ranked by both sides {figures.ranked_groups:,}"),
        ("Kendall's tau-b, mean", _signed(figures.kendall)),
        ("Spearman's rho, mean", _signed(figures.spearman)),
        (
            "pairs the run told apart",
            f"{figures.pairs:,}: {share_cell(figures.flipped)} the other way round, "
            f"{share_cell(figures.tied)} tied",
        ),
        *(
            (
                f"advantages, std {std}",
                f"sign changed {share_cell(change.sign_changed)}, mean |change| "
                f"{change.mean_change:.3f} (mean |advantage| {change.mean_size:.3f})",
            )
            for std, change in figures.advantages.items()
        ),
    ]


def _signed(value: float | None) -> str:
    return ABSENT if value is None else f"{value:+.3f}"
