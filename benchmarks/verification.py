"""Questions per second: one call per picture with all its questions, or one request per question.

Both ways ask the same engine in one run, by turns, with fresh pictures each time, so that no answer
comes from a cache. ``python benchmarks/verification.py`` starts Ray and the services of the Serve
config; with ``--gateway URL`` it asks a running gateway instead and leaves out the handle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from alphagrpo.cli.console import Narrator
from alphagrpo.images import encode_png_base64
from alphagrpo.types import Question

if TYPE_CHECKING:
    from services.client import VerifierClient

ROOT = Path(__file__).resolve().parents[1]
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
KINDS = ("circle", "square", "triangle", "cross")

Ask = Callable[[np.ndarray], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one measurement asks."""

    pictures: int
    questions: int
    side: int
    concurrency: int
    rounds: int


def make_questions(number: int) -> list[Question]:
    texts = [f"is there a {colour} {kind} ?" for colour in COLOURS for kind in KINDS]
    if number > len(texts):
        raise SystemExit(f"at most {len(texts)} questions, got {number}; pass fewer")
    return [
        Question(id=f"s{i}", text=text, kind="semantic", tag="Existence")
        for i, text in enumerate(texts[:number])
    ]


def by_call(client: VerifierClient, questions: Sequence[Question]) -> Ask:
    """One call per picture, with whatever transport the client has."""

    async def ask(pixels: np.ndarray) -> None:
        await client.verify(pixels, questions)

    return ask


def by_question(http: httpx.AsyncClient, questions: Sequence[Question]) -> Ask:
    """What a plain scorer does: the picture is sent again with each question."""

    async def ask(pixels: np.ndarray) -> None:
        image = encode_png_base64(pixels)
        bodies = [{"image": image, "questions": [question.text]} for question in questions]
        answers = await asyncio.gather(*(http.post("/v1/verify", json=body) for body in bodies))
        for answer in answers:
            answer.raise_for_status()

    return ask


async def measure(ask: Ask, plan: Plan, rng: np.random.Generator) -> float:
    """Questions per second over ``plan.pictures`` fresh pictures."""
    shape = (plan.pictures, plan.side, plan.side, 3)
    pictures = rng.integers(0, 256, shape, dtype=np.uint8)
    slots = asyncio.Semaphore(plan.concurrency)

    async def one(pixels: np.ndarray) -> None:
        async with slots:
            await ask(pixels)

    started = time.perf_counter()
    await asyncio.gather(*(one(pixels) for pixels in pictures))
    return plan.pictures * plan.questions / (time.perf_counter() - started)


async def compare(url: str, plan: Plan, with_handle: bool) -> dict[str, list[float]]:
    """Rates of every way, one per round; the ways take turns within a round."""
    from services.client import connect_verifier

    questions = make_questions(plan.questions)
    rng = np.random.default_rng()
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        token = os.environ.get("ALPHAGRPO_GATEWAY_TOKEN")
        if token:
            http.headers["Authorization"] = f"Bearer {token}"
        ways = {
            "HTTP, one request per question": by_question(http, questions),
            "HTTP, one call per picture": by_call(
                connect_verifier(url=url, token=token), questions
            ),
        }
        if with_handle:
            ways["handle, one call per picture"] = by_call(connect_verifier(), questions)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for ask in ways.values():
            await measure(ask, plan, rng)
        for _ in range(plan.rounds):
            for name, ask in ways.items():
                rates[name].append(await measure(ask, plan, rng))
    return rates


def show(rates: dict[str, list[float]], plan: Plan) -> None:
    """Prints medians, spread and the ratio to the first way."""
    table = Table(
        title=f"{plan.pictures} pictures of {plan.side} x {plan.side}, {plan.questions} questions "
        f"each, {plan.concurrency} pictures at once, {plan.rounds} rounds"
    )
    for column in ("way", "questions/s", "least", "most", "ratio"):
        table.add_column(column, justify="left" if column == "way" else "right")
    base = statistics.median(next(iter(rates.values())))
    for name, values in rates.items():
        median = statistics.median(values)
        cells = (median, min(values), max(values))
        table.add_row(name, *(f"{value:.0f}" for value in cells), f"{median / base:.2f}x")
    Console().print(table)


def start_services(config: Path) -> str:
    """A local cluster with the services of ``config``; returns the gateway's address."""
    # Before anything imports ray, which reads these once.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    from services.deploying import ensure_deployed
    from services.serve_config import load_serve_file

    serve_file = load_serve_file(config)
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    from alphagrpo.cli.serving import teller

    report = ensure_deployed(serve_file, progress=teller(Narrator()))
    Console().print(f"services up after {report.seconds:.0f} s")
    return f"http://127.0.0.1:{serve_file.http_port}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "deploy/serve/shapes.yaml")
    parser.add_argument("--gateway", help="address of a running gateway")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--side", type=int, default=48, help="pixels")
    parser.add_argument("--concurrency", type=int, default=8, help="pictures at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rates here too")
    given = parser.parse_args()
    plan = Plan(
        pictures=given.pictures,
        questions=given.questions,
        side=given.side,
        concurrency=given.concurrency,
        rounds=given.rounds,
    )
    url = given.gateway or start_services(given.config)
    rates = asyncio.run(compare(url, plan, with_handle=given.gateway is None))
    show(rates, plan)
    if given.json:
        record = {"plan": asdict(plan), "rates": rates}
        given.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
