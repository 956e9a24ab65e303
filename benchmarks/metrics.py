"""Which metrics are there at a first scrape, and which still are a minute later.

``python -m benchmarks.metrics``. The real judges with their engines, one step's figures and one
group's, and one question each, then nothing more: what is idle must not vanish. Ray's exporter is
left as it is, ten seconds between two reports; a gauge that is set once is there for comparison.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import sleep

import numpy as np

from alphagrpo.cli.console import Narrator
from alphagrpo.errors import NoQuestions
from alphagrpo.types import Prompt, Question
from benchmarks.scraping import PREFIXES, Series, metrics_url, scrape, scrape_until
from benchmarks.serving_probe import private_serve
from benchmarks.tables import markdown

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/metrics.md"
RUN = "measured"
ONCE = "benchmark_gauge_set_once"
COMPARISON = "for comparison: a gauge set once"
AREAS = {
    "a step (driver)": ("role", "driver"),
    "a group (runner)": ("role", "rollout-0"),
}
"""Whose series are told by a label."""


async def ask() -> None:
    """One prompt and one picture, for the run."""
    from services.client import connect_decomposer, connect_verifier

    question = Question(id="s0", text="is there a red circle ?", kind="semantic", tag="Existence")
    await connect_verifier(run=RUN).verify(np.zeros((48, 48, 3), np.uint8), [question])
    with contextlib.suppress(NoQuestions):
        await connect_decomposer(run=RUN).decompose(Prompt(id="p", text="a red circle"))


def area(series: Series) -> str:
    """Whose metric it is."""
    name, labels = series
    for title, label in AREAS.items():
        if label in labels:
            return title
    if name.startswith("ray_vllm_"):
        return "vLLM's own"
    if name.endswith(ONCE):
        return COMPARISON
    return "a service"


def table(first: Iterable[Series], second: Iterable[Series]) -> str:
    """Series by area at both scrapes, and how many of the first the second lacks."""
    before, after = set(first), set(second)
    counts = [Counter(map(area, series)) for series in (before, after, before - after)]
    rows = [
        [name, *(str(count[name]) for count in counts)]
        for name in sorted(counts[0], key=lambda name: (name.startswith("for"), name))
    ]
    return markdown(["series of", "first scrape", "second scrape", "missing"], rows)


def complete(series: Mapping[Series, float]) -> bool:
    """Whether every process has reported since all was set: they do so every ten seconds."""
    own = {name for name, labels in series if ("run", RUN) in labels}
    engines = {labels for name, labels in series if name == "ray_vllm_request_success_total"}
    judges = {f"ray_alphagrpo_{judge}_latency_seconds_sum" for judge in ("decomposer", "verifier")}
    return (
        {area(one) for one in series} >= {*AREAS, COMPARISON}
        and judges <= own
        and len({dict(labels)["model_name"] for labels in engines}) == len(judges)
    )


def measure(seconds: float) -> tuple[Mapping[Series, float], Mapping[Series, float]]:
    """Both scrapes, ``seconds`` apart."""
    from ray.util.metrics import Gauge

    from actors.metrics import STEP_GAUGES, StepGauges

    asyncio.run(ask())
    steps = StepGauges(RUN)
    steps.observe({key: 1.0 for key in STEP_GAUGES})
    runner = show_group()
    once = Gauge(f"alphagrpo_{ONCE}")
    once.set(1.0)

    url = metrics_url()
    first = scrape_until(url, complete, 60.0)
    sleep(seconds)
    second = scrape(url)
    steps.close()
    del runner
    return first, second


def show_group() -> object:
    """A runner's gauges after one group; they last as long as what is returned."""
    from actors.metrics import RunnerGauges
    from alphagrpo.ports import Sample, Timings
    from alphagrpo.rollout.runner import RolloutResult

    gauges = RunnerGauges(RUN, "rollout-0")
    timings = Timings(sample_s=2.0, verify_s=1.0, pull_s=0.5)
    sample = Sample(id="s", thought="", score=None, reward=0.5)
    # Only samples and timings of a result are shown.
    gauges.observe(RolloutResult(group=None, samples=(sample,), timings=timings), 1)  # type: ignore[arg-type]
    return gauges


def main() -> int:
    """Measure, print and write the page; 1 where anything but the comparison is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "deploy/serve/shapes.yaml")
    parser.add_argument("--seconds", type=float, default=60.0, help="between the scrapes")
    args = parser.parse_args()
    with private_serve(args.config, Narrator(), ("decomposer", "verifier")):
        first, second = measure(args.seconds)
    missing = {series for series in set(first) - set(second) if not series[0].endswith(ONCE)}
    page = (
        "# Metrics that stay\n\n"
        f"`python -m benchmarks.metrics`: series whose names begin with {' or '.join(PREFIXES)},\n"
        f"at two scrapes {args.seconds:.0f} s apart. Between them nobody asks and no step is taken."
        f"\n\n{table(first, second)}\n"
    )
    print(page)
    print("\n".join(f"missing: {name} {dict(labels)}" for name, labels in sorted(missing)))
    RESULT.write_text(page, encoding="utf-8")
    return int(bool(missing) or not complete(first))


if __name__ == "__main__":
    raise SystemExit(main())
