"""What a picture's prefix in the engine's cache saves: 45 questions about 256 image tokens.

``python -m benchmarks.prefix_cache``. A verifier of the miniature's architecture for pictures of
256 x 256, with random weights: only how often its engine finds a prefix counts, by vLLM's own
counters, and how long it takes.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from alphagrpo.cli.console import print_table
from alphagrpo.types import Question

SIDE, IMAGE_TOKENS = 256, 256
QUESTIONS, PICTURES, ROUNDS = 45, 6, 3
COLUMNS = ("warm_first", "prompt tokens", "found in the cache", "hit rate", "questions/s")
COLOURS = ("red", "green", "blue", "yellow", "purple")
THINGS = ("circle", "square", "triangle", "cross", "star", "ring", "line", "dot", "arc")


class PrefixCounter:
    """vLLM's counters of its prefix cache, in tokens, summed since the last reset."""

    def __init__(self) -> None:
        self.queries = self.hits = 0

    def __call__(self, *_: Any) -> PrefixCounter:
        """vLLM makes its stat loggers; this one is made already."""
        return self

    def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
        """Called by vLLM after every step."""
        if scheduler_stats is not None:
            self.queries += scheduler_stats.prefix_cache_stats.queries
            self.hits += scheduler_stats.prefix_cache_stats.hits

    def __getattr__(self, name: str) -> Any:
        """What else vLLM tells a stat logger is nothing to this one."""
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None


def questions() -> list[Question]:
    """As many different questions as the paper asks about a picture."""
    texts = [f"is there a {colour} {thing} ?" for colour in COLOURS for thing in THINGS]
    return numbered(texts[:QUESTIONS])


def numbered(texts: Sequence[str]) -> list[Question]:
    """Questions of these texts, with ids in their order."""
    return [
        Question(id=f"s{i}", text=text, kind="semantic", tag="Existence")
        for i, text in enumerate(texts)
    ]


async def count(folder: Path) -> list[tuple[str, ...]]:
    """A row with ``warm_first`` and one without, by turns on one engine, each on fresh pictures."""
    from alphagrpo.judging.verification import VerificationProgram
    from services.engine_vllm import VllmEngine
    from services.settings import EngineSettings

    settings = EngineSettings(
        model=str(folder),
        device="cpu",
        dtype="float32",
        max_model_len=IMAGE_TOKENS + 128,
        max_num_batched_tokens=2048,
        kv_cache_mib=256,
    )
    counter = PrefixCounter()
    engine = VllmEngine(settings, vision=True, stat_loggers=[counter])
    rng = np.random.default_rng()
    asked = questions()
    totals: dict[bool, list[int]] = {True: [0, 0], False: [0, 0]}
    rates: dict[bool, list[float]] = {True: [], False: []}
    try:
        for turn in range(ROUNDS + 1):  # the first one warms up
            for warm in totals:
                program = VerificationProgram(engine, template="bare", warm_first=warm)
                pictures = rng.integers(0, 256, (PICTURES, SIDE, SIDE, 3), dtype=np.uint8)
                counter.queries = counter.hits = 0
                started = time.perf_counter()
                for pixels in pictures:
                    await program.verify(pixels, asked)
                rate = PICTURES * QUESTIONS / (time.perf_counter() - started)
                if turn:
                    rates[warm].append(rate)
                    totals[warm][0] += counter.queries
                    totals[warm][1] += counter.hits
    finally:
        engine.shutdown()
    return [
        (
            "true" if warm else "false",
            str(queries),
            str(hits),
            f"{hits / queries:.1%}",
            f"{statistics.median(rates[warm]):.0f}",
        )
        for warm, (queries, hits) in totals.items()
    ]


def measure() -> list[tuple[str, ...]]:
    """The rows, on an engine of its own; for a process that has not imported vLLM yet."""
    import torch

    from miniature.judge_tokenizer import judge_tokenizer
    from miniature.verifier.model import image_tokens, save_verifier, verifier_model

    assert image_tokens(SIDE) == IMAGE_TOKENS
    torch.manual_seed(0)
    tokenizer = judge_tokenizer()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "verifier"
        save_verifier(folder, verifier_model(tokenizer, SIDE), tokenizer)
        return asyncio.run(count(folder))


def title() -> str:
    """What is measured, in one line."""
    return (
        f"{QUESTIONS} questions about {IMAGE_TOKENS} image tokens, {PICTURES} pictures one after "
        f"another, {ROUNDS} rounds"
    )


def show(rows: Sequence[tuple[str, ...]]) -> None:
    """Print the table."""
    print_table(Console(), title(), rows, COLUMNS)


if __name__ == "__main__":
    show(measure())
