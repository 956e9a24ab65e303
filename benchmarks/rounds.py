"""What inference rounds cost: one pass against one and two refinements, with the gate and without.

``python -m benchmarks.rounds``. The same prompts by turns in one run, medians over the turns, on
one thread beside the real services: seconds per batch, pictures that are kept per second, and what
each further round adds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from alphagrpo.cli.console import Narrator
from alphagrpo.cli.local_policy import LocalPolicy
from alphagrpo.cli.serving import serving
from alphagrpo.config import load_config
from alphagrpo.data import load_heldout
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.rollout.rounds import ScorePicture, round_seed

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = (0, 1, 2)


async def take(
    policy: LocalPolicy, requests: Sequence[PictureRequest], rounds: int, score: ScorePicture | None
) -> float:
    """Seconds to draw a batch and refine it ``rounds`` times; every picture is judged if asked."""

    async def scored(pictures: Sequence[Picture]) -> None:
        if score is not None:
            await asyncio.gather(*(score(p.prompt, p.pixels) for p in pictures))

    started = time.perf_counter()
    pictures = await policy.draw(requests, version=-1)
    await scored(pictures if rounds else ())
    for index in range(1, rounds + 1):
        again = [
            replace(request, seed=round_seed(request.seed, index), start=picture.as_start())
            for request, picture in zip(requests, pictures, strict=True)
        ]
        pictures = await policy.draw(again, version=-1)
        await scored(pictures)
    return time.perf_counter() - started


async def measure(policy: LocalPolicy, batch: int, turns: int, score: ScorePicture) -> Table:
    prompts = load_heldout("shapes:heldout", num_plain=batch * turns, num_thought=0, seed=7)
    cases = [(rounds, gate) for rounds in ROUNDS for gate in (False, True) if rounds or not gate]
    seconds: dict[tuple[int, bool], list[float]] = {case: [] for case in cases}
    for turn in range(-1, turns):  # the first one warms up
        part = prompts[max(turn, 0) * batch :][:batch]
        for rounds, gate in cases:
            # Seeds of their own, so that no picture is known to the verifier's cache.
            requests = [
                PictureRequest(prompt=p, seed=1000 * (turn + 2) + 100 * rounds + 50 * gate + i)
                for i, p in enumerate(part)
            ]
            spent = await take(policy, requests, rounds, score if gate else None)
            if turn >= 0:
                seconds[rounds, gate].append(spent)
    return as_table(seconds, batch)


def as_table(seconds: dict[tuple[int, bool], list[float]], batch: int) -> Table:
    table = Table(
        "rounds", "gate", "s per batch", "kept pictures/s", "s per round", "ratio", box=None
    )
    base = statistics.median(seconds[0, False])
    for (rounds, gate), values in seconds.items():
        median = statistics.median(values)
        per_round = f"{(median - base) / rounds:.2f}" if rounds else "-"
        table.add_row(
            str(rounds),
            "dvreward" if gate else "none",
            f"{median:.2f}",
            f"{batch / median:.2f}",
            per_round,
            f"{median / base:.2f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16, help="prompts per batch")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    config = load_config(ROOT / "deploy/configs/shapes-srr.yaml", [])
    policy = LocalPolicy(config)
    serve_config = ROOT / "deploy/serve/shapes.yaml"
    with serving(serve_config, Narrator(), ("decomposer", "verifier")):
        # Imported here, not before: Ray reads its authentication mode once, when it is imported.
        from services.scoring import connect_scorer

        score = connect_scorer(config.services, config.reward)
        table = asyncio.run(measure(policy, args.batch, args.turns, score))
    print(f"{args.batch} held-out prompts a batch, medians of {args.turns} turns")
    Console().print(table)


if __name__ == "__main__":
    main()
