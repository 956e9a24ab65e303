"""A private Serve for a measurement, and what it says of its replicas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphagrpo.cli.console import Narrator
from alphagrpo.cli.ray_session import RaySession, ray_session
from alphagrpo.cli.ray_start import free_ports, set_environment
from alphagrpo.cli.serving import deployed, private_cpus

if TYPE_CHECKING:
    from services.serve_config import ServeFile


@contextmanager
def private_serve(
    path: Path, narrator: Narrator, apps: Sequence[str] | None = None, *, spare_cpus: int = 6
) -> Iterator[tuple[RaySession, ServeFile]]:
    """The applications ``apps`` (None: all) of a Serve config in a cluster of their own, on a free
    HTTP port. This process is joined to it.

    ``spare_cpus``: logical ones beside the services', for a run's own processes.
    """
    set_environment(private=True)
    # Imported here, not before: Ray reads its authentication mode once, when it is imported.
    from services.serve_config import load_serve_file

    serve_file = load_serve_file(path, apps)
    serve_file.schema.http_options.port = free_ports(1)[0]
    num_cpus = private_cpus(serve_file) + spare_cpus
    with ray_session(None, num_cpus=num_cpus) as session, deployed(serve_file, narrator, session):
        yield session, serve_file


def replicas_now(app: str) -> tuple[int, int]:
    """Replicas asked for and replicas that run, of the only deployment of an application."""
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None
    details: dict[str, Any] = client.get_serve_details()
    (deployment,) = details["applications"][app]["deployments"].values()
    states = [replica["state"] for replica in deployment["replicas"]]
    return int(deployment["target_num_replicas"]), states.count("RUNNING")
