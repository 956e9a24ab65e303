"""Replicas over time under a steady and under a bursty load: up, stay, and down without a reversal.

``python -m benchmarks.autoscaling``. A real Serve with the autoscaling section that
`deploy/serve/bagel-7b.yaml` has for its verifier, its times divided by ``--speedup``; the engine is
a stand-in that sleeps (:mod:`benchmarks.stand_in`). Callers are the project's own client.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import yaml

from alphagrpo.cli.console import Narrator
from alphagrpo.types import Question
from benchmarks.serving_probe import private_serve, replicas_now
from benchmarks.tables import markdown

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT / "deploy/serve/bagel-7b.yaml"
RESULT = ROOT / "benchmarks/results/autoscaling.md"
QUESTIONS = tuple(
    Question(id=f"s{i}", text=f"question {i} ?", kind="semantic", tag="Existence")
    for i in range(45)
)
GROUP = 14
"""Pictures of a group, asked about at once."""
TARGET = 224.0
"""Questions a replica should have in hand: five pictures, so that a group needs three replicas."""
SCALED = ("upscale_delay_s", "downscale_delay_s", "look_back_period_s", "metrics_interval_s")


@dataclass(slots=True)
class Trace:
    """What happened under one load."""

    load: str
    started: float = field(default_factory=perf_counter)
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds, replicas asked for, replicas that run."""
    ended_s: float = 0.0
    """When the load ended."""
    calls: int = 0
    failed: int = 0
    longest_s: float = 0.0

    def changes(self) -> list[tuple[float, int]]:
        """When the number asked for became another, the first included."""
        seen = [(at, asked) for at, asked, _ in self.samples]
        return seen[:1] + [new for old, new in pairwise(seen) if new[1] != old[1]]

    def reversals(self) -> int:
        """Replicas taken from a load that went on, and added after it had ended."""
        return sum(
            (new < old) == (at <= self.ended_s) for (_, old), (at, new) in pairwise(self.changes())
        )


def autoscaling_section(speedup: float) -> dict[str, Any]:
    """The verifier's real section, one to three replicas, with times divided by ``speedup``."""
    raw = yaml.safe_load(REAL.read_text(encoding="utf-8"))
    (app,) = [app for app in raw["applications"] if app["name"] == "verifier"]
    section = dict(app["deployments"][0]["autoscaling_config"])
    section |= {"min_replicas": 1, "initial_replicas": 1, "max_replicas": 3}
    # Serve's own default, which would not be scaled with the rest.
    section.setdefault("metrics_interval_s", 10.0)
    for key in SCALED:
        section[key] = section[key] / speedup
    kwargs = section["policy"]["policy_kwargs"]
    kwargs |= {"target": TARGET, "window_s": kwargs["window_s"] / speedup}
    return section


def serve_config(speedup: float, folder: Path) -> Path:
    """A Serve config of the stand-in alone."""
    app = {
        "name": "verifier",
        "route_prefix": None,
        "import_path": "benchmarks.stand_in:build",
        "args": {"start_s": 30.0 / speedup, "picture_s": 4.0, "at_once": 4},
        "deployments": [
            {
                "name": "Verifier",
                "autoscaling_config": autoscaling_section(speedup),
                "ray_actor_options": {"num_cpus": 0.1},
            }
        ],
    }
    path = folder / "stand-in.yaml"
    path.write_text(yaml.safe_dump({"applications": [app]}), encoding="utf-8")
    return path


async def steady(ask: Callable[[], None], seconds: float) -> None:
    """A picture every 0.4 s, whether or not the ones before are answered: 2.5 replicas' work."""
    for _ in range(round(seconds / 0.4)):
        ask()
        await asyncio.sleep(0.4)


async def bursty(ask: Callable[[], None], seconds: float) -> None:
    """A group at once every 8 s: a replica alone takes 14 s for it, three take 8 s at most."""
    for _ in range(round(seconds / 8.0)):
        for _ in range(GROUP):
            ask()
        await asyncio.sleep(8.0)


LOADS = {
    "steady: a picture every 0.4 s": steady,
    f"bursty: {GROUP} pictures at once every 8 s": bursty,
}


async def measure_all(seconds: float, quiet_s: float) -> list[Trace]:
    """One load after the other, each until the replicas have gone again."""
    from services.client import connect_verifier

    verifier = connect_verifier(max_concurrency=64, deadline_s=120.0)
    return [await measure(load, seconds, quiet_s, verifier) for load in LOADS]


async def measure(load: str, seconds: float, quiet_s: float, verifier: Any) -> Trace:
    """Replicas under ``load`` for ``seconds`` and for ``quiet_s`` after it."""
    trace = Trace(load)
    tasks: list[asyncio.Task[None]] = []
    async with sampling(trace):
        await LOADS[load](lambda: tasks.append(asyncio.create_task(call(trace, verifier))), seconds)
        trace.ended_s = perf_counter() - trace.started
        await asyncio.gather(*tasks)
        await asyncio.sleep(quiet_s)
    return trace


async def call(trace: Trace, verifier: Any) -> None:
    """One picture; a failure is counted, not raised."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    started = perf_counter()
    trace.calls += 1
    try:
        await verifier.verify(pixels, QUESTIONS)
    except Exception as error:
        trace.failed += 1
        print(f"failed: {error!r}")
    trace.longest_s = max(trace.longest_s, perf_counter() - started)


@asynccontextmanager
async def sampling(trace: Trace) -> AsyncIterator[None]:
    """Looks at the replicas every half second while the block runs."""

    async def look() -> None:
        while True:
            asked, running = await asyncio.to_thread(replicas_now, "verifier")
            trace.samples.append((perf_counter() - trace.started, asked, running))
            await asyncio.sleep(0.5)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()


def report(traces: Sequence[Trace], speedup: float) -> str:
    """The page of results."""
    rows = [
        [
            trace.load,
            " → ".join(str(asked) for _, asked in trace.changes()),
            ", ".join(f"{asked} at {at:.0f} s" for at, asked in trace.changes()[1:]),
            f"{trace.ended_s:.0f} s",
            str(trace.reversals()),
            f"{trace.failed} of {trace.calls}",
            f"{trace.longest_s:.1f} s",
        ]
        for trace in traces
    ]
    header = ["load", "replicas", "when", "load ended", "reversals", "failed calls", "longest call"]
    over_time = "\n\n".join(_over_time(trace) for trace in traces)
    return (
        "# Replicas over time\n\n"
        f"`python -m benchmarks.autoscaling --speedup {speedup:g}`: a real Serve with the\n"
        f"autoscaling section of `{REAL.relative_to(ROOT)}`, all its times divided by\n"
        f"{speedup:g}, one to three replicas, {TARGET:.0f} questions for each. The engine is a\n"
        "stand-in that sleeps: a replica answers one picture of 45 questions a second.\n\n"
        f"{markdown(header, rows)}\n\n"
        "A reversal is a replica taken from a load that goes on, or added after it has ended.\n\n"
        f"{over_time}\n"
    )


def _over_time(trace: Trace) -> str:
    """Every ten seconds."""
    step = 10.0
    rows, next_at = [], 0.0
    for at, asked, running in trace.samples:
        if at >= next_at:
            rows.append([f"{at:.0f}", str(asked), str(running)])
            next_at += step
    columns = [["seconds", "asked for", "running"], *rows]
    header, *body = (list(line) for line in zip(*columns, strict=True))
    return f"{trace.load}\n\n{markdown(header, body)}"


def main() -> int:
    """Measure, print and write the page; 1 where a load saw a reversal or a failed call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speedup", type=float, default=5.0, help="divides the config's times")
    parser.add_argument("--seconds", type=float, default=150.0, help="of each load")
    args = parser.parse_args()
    section = autoscaling_section(args.speedup)
    leaving_s = section["policy"]["policy_kwargs"]["window_s"] + section["downscale_delay_s"]
    quiet_s = leaving_s + section["look_back_period_s"] + 30.0
    with tempfile.TemporaryDirectory() as folder:
        path = serve_config(args.speedup, Path(folder))
        with private_serve(path, Narrator()):
            traces = asyncio.run(measure_all(args.seconds, quiet_s))
    page = report(traces, args.speedup)
    print(page)
    RESULT.write_text(page, encoding="utf-8")
    return int(any(trace.reversals() or trace.failed for trace in traces))


if __name__ == "__main__":
    raise SystemExit(main())
