"""One cluster with its services, which several runs join one after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alphagrpo.cli.console import Narrator
from benchmarks.serving_probe import private_serve


@contextmanager
def cluster_with(services: Path, spare_cpus: int) -> Iterator[str]:
    """A private cluster in which the applications of a Serve file run; its address.

    ``spare_cpus``: logical ones, for a run's own processes. This process is joined to it.
    """
    with private_serve(services, Narrator(), spare_cpus=spare_cpus):
        # Imported here, not before: Ray reads its authentication mode once, when it is imported.
        import ray

        yield str(ray.get_runtime_context().gcs_address)
