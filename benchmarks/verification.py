"""Verdicts a second: the mesh's verifier against vLLM's own server, asked question by question.

``python -m benchmarks.verification`` starts both, each with an engine of the same arguments, and
asks them by turns, with fresh pictures each time, so that no answer comes from a cache. Then it
counts what a picture's prefix in the engine's cache saves (:mod:`benchmarks.prefix_cache`).
``--gateway URL`` measures a gateway that runs instead, and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import psutil
from rich.console import Console

from alphagrpo.cli.console import Narrator, print_table
from alphagrpo.images import encode_png_base64
from alphagrpo.types import Question
from benchmarks import prefix_cache
from benchmarks.plain_vllm import ask_plainly, plain_server
from benchmarks.running import RESULTS, SERVE_CONFIG, commit
from benchmarks.serving_probe import private_serve
from benchmarks.tables import markdown

if TYPE_CHECKING:
    from services.client import VerifierClient

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
KINDS = ("circle", "square", "triangle", "cross")
PLAIN = "plain vLLM server, by question"
GOALS = {"handle, by picture": 5.0, "gateway, by picture": 3.0}
COLUMNS = (
    "contender", "questions/s", "least", "most", "CPU ms a question", "to the plain server",
)  # fmt: skip

PAGE = """# Verdicts a second

Printed by `python -m benchmarks.verification` on two cores that all processes share with others
(load {load} when it began; commit {commit}). Every engine has the arguments of the miniature
verifier in `deploy/serve/shapes.yaml`. **Plain**: vLLM's OpenAI server and httpx, one request per
question with the picture as a data URI, one token, its five likeliest; all questions of a picture
at once. **Handle** and **gateway, by picture**: the mesh's client, which sends pictures that are
asked about at once a few to a call, over a Serve handle or as raw pixels over HTTP. **Gateway,
JSON, by question**: base64 and a request per question, as a stranger might. Random pictures, so
that no cache answers; contenders by turns. CPU is of all processes of the benchmark, its client
and the idle ones included.

{tables}

## The prefix of a picture

{prefix}. A verifier of the miniature's
architecture with random weights, in process. Counted by vLLM, in tokens of prompts; a cache block
has 32.

{prefix_table}
"""

Ask = Callable[[np.ndarray], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one measurement asks."""

    pictures: int
    questions: int
    side: int
    concurrency: int
    rounds: int

    def __str__(self) -> str:
        return (
            f"{self.pictures} pictures of {self.side} x {self.side}, {self.questions} questions "
            f"each, {self.concurrency} pictures at once, {self.rounds} rounds"
        )


@dataclass(slots=True)
class Figures:
    """What one contender did, round by round."""

    rates: list[float] = field(default_factory=list)
    """Questions a second."""
    cpu_ms: list[float] = field(default_factory=list)
    """CPU milliseconds a question, of all processes of this benchmark."""


def make_questions(number: int) -> list[Question]:
    """So many questions that the miniature verifier has learnt to read."""
    texts = [f"is there a {colour} {kind} ?" for colour in COLOURS for kind in KINDS]
    texts += [f"is there a {colour} {kind} there ?" for colour in COLOURS for kind in KINDS]
    if number > len(texts):
        raise SystemExit(f"at most {len(texts)} questions, got {number}; pass fewer")
    return prefix_cache.numbered(texts[:number])


def by_picture(client: VerifierClient, questions: Sequence[Question]) -> Ask:
    """One call per picture, with whatever transport the client has."""

    async def ask(pixels: np.ndarray) -> None:
        await client.verify(pixels, questions)

    return ask


def by_question(http: httpx.AsyncClient, questions: Sequence[Question]) -> Ask:
    """The gateway's JSON form, with the picture sent again for each question."""

    async def ask(pixels: np.ndarray) -> None:
        image = encode_png_base64(pixels)
        bodies = [{"image": image, "questions": [question.text]} for question in questions]
        answers = await asyncio.gather(*(http.post("/v1/verify", json=body) for body in bodies))
        for answer in answers:
            answer.raise_for_status()

    return ask


def cpu_s() -> float:
    """CPU seconds of this process and of all it has started that still run."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


async def measure(ask: Ask, plan: Plan, rng: np.random.Generator, figures: Figures) -> None:
    """One round over fresh pictures."""
    shape = (plan.pictures, plan.side, plan.side, 3)
    pictures = rng.integers(0, 256, shape, dtype=np.uint8)
    slots = asyncio.Semaphore(plan.concurrency)

    async def one(pixels: np.ndarray) -> None:
        async with slots:
            await ask(pixels)

    number = plan.pictures * plan.questions
    spent, started = cpu_s(), time.perf_counter()
    await asyncio.gather(*(one(pixels) for pixels in pictures))
    figures.rates.append(number / (time.perf_counter() - started))
    figures.cpu_ms.append(1000 * (cpu_s() - spent) / number)


async def compare(ways: dict[str, Ask], plan: Plan) -> dict[str, Figures]:
    """Figures of every way; the ways take turns within a round, the first round warms up."""
    rng = np.random.default_rng()
    for ask in ways.values():
        await measure(ask, plan, rng, Figures())
    figures = {name: Figures() for name in ways}
    for _ in range(plan.rounds):
        for name, ask in ways.items():
            await measure(ask, plan, rng, figures[name])
    return figures


async def measure_all(gateway: str, plain: str | None, plan: Plan) -> dict[str, Figures]:
    """Every contender that there is: all where a plain server runs, else those of a gateway."""
    from services.client import connect_verifier

    questions = make_questions(plan.questions)
    token = os.environ.get("ALPHAGRPO_GATEWAY_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        # As many requests at once as a gateway takes.
        httpx.AsyncClient(
            base_url=gateway,
            headers=headers,
            timeout=600,
            limits=httpx.Limits(max_connections=64),
        ) as http,
        httpx.AsyncClient(base_url=plain or "", timeout=600) as rival,
    ):
        ways: dict[str, Ask] = {}
        if plain:
            ways[PLAIN] = lambda pixels: ask_plainly(rival, pixels, questions)
            ways["handle, by picture"] = by_picture(connect_verifier(), questions)
        client = connect_verifier(url=gateway, token=token)
        ways["gateway, by picture"] = by_picture(client, questions)
        ways["gateway, JSON, by question"] = by_question(http, questions)
        return await compare(ways, plan)


def rows_of(figures: dict[str, Figures]) -> list[tuple[str, ...]]:
    """A row per contender; ratios of medians to the plain server's, with the goal if it has one."""
    base = figures.get(PLAIN)
    rows = []
    for name, one in figures.items():
        median, cpu = statistics.median(one.rates), statistics.median(one.cpu_ms)
        ratio = "-"
        if base is not None:
            times = median / statistics.median(base.rates)
            ratio = f"{times:.2f}"
            if goal := GOALS.get(name):
                ratio += f" (goal {goal:g}: {'met' if times >= goal else 'not met'})"
        rates = (median, min(one.rates), max(one.rates))
        rows.append((name, *(f"{rate:.0f}" for rate in rates), f"{cpu:.2f}", ratio))
    return rows


def show(plan: Plan, figures: dict[str, Figures]) -> str:
    """Print the table of a plan; the same for the page."""
    rows = rows_of(figures)
    print_table(Console(), str(plan), rows, COLUMNS)
    return f"{plan}:\n\n{markdown(COLUMNS, rows)}"


def main() -> None:
    """Print the tables; without ``--gateway`` they go to the results page too."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verification", description=__doc__)
    parser.add_argument("--config", type=Path, default=SERVE_CONFIG)
    parser.add_argument("--gateway", help="address of a running gateway")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--side", type=int, default=48, help="pixels")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[8, 32], metavar="PICTURES",
                        help="pictures at once, a table for each")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    given = vars(parser.parse_args())
    config, gateway = given.pop("config"), given.pop("gateway")
    plans = [Plan(**{**given, "concurrency": number}) for number in given["concurrency"]]
    load = os.getloadavg()[0]
    if gateway is not None:
        for plan in plans:
            show(plan, asyncio.run(measure_all(gateway, None, plan)))
        return
    narrator = Narrator()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        apps = ("verifier", "gateway")
        _, served = stack.enter_context(private_serve(config, narrator, apps))
        args = next(app.args for app in served.schema.applications if app.name == "verifier")
        with narrator.stage("vLLM's own server"):
            plain = stack.enter_context(plain_server(args, Path(name)))
        url = f"http://127.0.0.1:{served.http_port}"
        tables = [show(plan, asyncio.run(measure_all(url, plain, plan))) for plan in plans]
    # A process of its own: an engine reads its environment when vLLM is first imported.
    with narrator.stage("the prefix cache"), ProcessPoolExecutor(1, get_context("spawn")) as pool:
        prefix_rows = pool.submit(prefix_cache.measure).result()
    prefix_cache.show(prefix_rows)
    page = PAGE.format(
        load=f"{load:.0f}",
        commit=commit(),
        tables="\n\n".join(tables),
        prefix=prefix_cache.title(),
        prefix_table=markdown(prefix_cache.COLUMNS, prefix_rows),
    )
    (RESULTS / "verification.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
