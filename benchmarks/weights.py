"""Moving weights: publish, fetch and apply against what the object store alone would take.

The real registry, store, checksum and copy between real processes, with adapters of the released
model's size. Beside each round the same bytes are put, fetched and copied once with nothing around
them: the ratio is what versions, checksums and layout cost.
"""

from __future__ import annotations

import argparse
import statistics
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console

from alphagrpo.cli.console import Narrator, print_table
from alphagrpo.cli.ray_session import ray_session
from alphagrpo.models import weights
from benchmarks.running import RESULTS
from benchmarks.tables import markdown

RUNNERS = (1, 4, 8)
ROUNDS = 5
LIMIT_S = 60.0
TENSORS, VALUES = 784, 103_000
"""323 MB in float32: as many bytes as 161.5 M adapter weights of rank 32 have in bfloat16."""
STORE_BYTES = 3 << 30
COLUMNS = ("runners", "published to applied, s", "put, get, one copy, s", "ratio")
NOTE = """Printed by `python -m benchmarks.weights`: medians of five rounds, both ways by turns in
one session, on two cores that publisher and runners share. From the call of `publish` to the last
runner's applied parameters, by the caller's clock; 323 MB."""


def make_parameters() -> dict[str, Any]:
    """Adapter-like tensors of 323 MB in all."""
    import torch

    return {f"layer.{i}": torch.zeros(VALUES) for i in range(TENSORS)}


class Publisher:
    """A learner's half."""

    def __init__(self, registry: Any) -> None:
        from actors.weights import RayWeightStore

        self.parameters, self.store = make_parameters(), RayWeightStore(registry, LIMIT_S)
        self.bytes = np.zeros(TENSORS * VALUES * 4, np.uint8)

    async def publish(self, version: int) -> None:
        """As the learner does."""
        manifest, chunks = weights.flatten(self.parameters, version=version)
        await self.store.publish(chunks, manifest)

    def put(self) -> list[Any]:
        """The bytes alone; their reference, in a list so that it travels as one."""
        import ray

        return [ray.put(self.bytes)]


class Runner:
    """A runner's half."""

    def __init__(self, registry: Any) -> None:
        from actors.weights import RayWeightStore

        self.parameters, self.store = make_parameters(), RayWeightStore(registry, LIMIT_S)
        self.bytes = np.zeros(TENSORS * VALUES * 4, np.uint8)

    async def pull(self, version: int) -> None:
        """As a runner does."""
        manifest, chunks = await self.store.fetch(version)
        weights.apply(self.parameters, manifest, chunks)

    async def copy(self, references: list[Any]) -> None:
        """The bytes alone, into memory that is there."""
        self.bytes[:] = await references[0]


def measure(number: int, rounds: int) -> tuple[float, float]:
    """Median seconds of both ways with so many runners; the first round warms up."""
    import ray

    from actors.weights import WeightRegistry

    remote: Any = ray.remote
    registry = remote(WeightRegistry).options(num_cpus=0).remote(2)
    publisher = remote(Publisher).options(num_cpus=0).remote(registry)
    runners = [remote(Runner).options(num_cpus=0).remote(registry) for _ in range(number)]
    whole, bare = [], []
    for version in range(rounds + 1):
        started = perf_counter()
        ray.get(publisher.publish.remote(version))
        ray.get([runner.pull.remote(version) for runner in runners])
        published = perf_counter()
        references = ray.get(publisher.put.remote())
        ray.get([runner.copy.remote(references) for runner in runners])
        whole.append(published - started)
        bare.append(perf_counter() - published)
        del references
    for actor in (*runners, publisher, registry):
        ray.kill(actor)
    return statistics.median(whole[1:]), statistics.median(bare[1:])


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weights", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    narrator, rows = Narrator(), []
    with ray_session(None, num_cpus=2, store_bytes=STORE_BYTES):
        for number in RUNNERS:
            with narrator.stage(f"{number} runners"):
                whole, bare = measure(number, arguments.rounds)
            rows.append((str(number), f"{whole:.2f}", f"{bare:.2f}", f"{whole / bare:.2f}"))
    print_table(Console(), "moving 323 MB of weights", rows, COLUMNS)
    text = f"# Moving weights\n\n{NOTE}\n\n{markdown(COLUMNS, rows)}\n"
    (RESULTS / "weights.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
