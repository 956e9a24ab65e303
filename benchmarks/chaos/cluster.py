"""One cluster with its services, which several runs join one after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alphagrpo.cli.console import Narrator
from alphagrpo.cli.ray_session import ray_session
from alphagrpo.cli.serving import deployed, private_cpus


@contextmanager
def cluster_with(services: Path, spare_cpus: int) -> Iterator[str]:
    """A private cluster in which the applications of a Serve file run; its address.

    ``spare_cpus``: logical ones, for a run's own processes. This process is joined to it.
    """
    import ray

    from services.serve_config import load_serve_file

    serve_file = load_serve_file(services)
    with ray_session(None, num_cpus=private_cpus(serve_file) + spare_cpus) as session:
        with deployed(serve_file, Narrator(), session):
            yield ray.get_runtime_context().gcs_address
