"""Joining a Ray cluster, or starting a private one and cleaning it up again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from alphagrpo.cli.prechecks import check_no_foreign_cluster, check_port
from alphagrpo.cli.ray_start import set_environment, start_ray
from alphagrpo.errors import EnvironmentProblem

NAMESPACE = "alphagrpo"
OBJECT_STORE_BYTES = 300 * 2**20
"""Weights of a few million parameters twice and a step's trajectories are tens of MB."""
LOOPBACK = "127.0.0.1"
LOCAL = "local"
"""Ray's own word for "start a private cluster, whatever runs beside it"."""


@dataclass(frozen=True, slots=True)
class RaySession:
    """The cluster a command works on."""

    private: bool
    """Started here, so stopped here."""
    dashboard: str
    """URL, or empty where there is none."""


def address_to_join() -> str | None:
    """Address of the cluster to join; None to start a private one.

    ``RAY_ADDRESS`` decides; a driver inside a Ray job has it set by Ray. Raises EnvironmentProblem
    where it says nothing and a cluster already runs here.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address == LOCAL:
        return None
    if address:
        return address
    check_no_foreign_cluster()
    return None


@contextmanager
def ray_session(address: str | None, *, num_cpus: int, quiet: bool = True) -> Iterator[RaySession]:
    """Join the cluster at ``address``, or start a private one of ``num_cpus`` logical CPUs.

    The private one listens on loopback only and asks for Ray's token (``~/.ray/auth_token``, which
    `ray job submit` and `serve deploy` of the same user find by themselves) unless RAY_AUTH_MODE
    says otherwise. On leaving, what was started here is stopped, and nothing else. A process that
    is connected already stays as it is.
    """
    set_environment(private=address is None)
    if address is None:
        # It has done its work; processes of the private cluster would take it for an address.
        os.environ.pop("RAY_ADDRESS", None)
    import ray

    if ray.is_initialized():  # an embedding program's connection: neither ours to make nor to end
        yield RaySession(private=False, dashboard="")
        return
    common: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": not quiet,
        "logging_level": "WARNING",
    }
    if address is not None:
        try:
            context = ray.init(address=address, **common)
        except (ConnectionError, RuntimeError) as error:
            raise EnvironmentProblem(
                f"RAY_ADDRESS must name a running cluster, {address!r} does not answer ({error}); "
                "start it, or unset RAY_ADDRESS for a private one"
            ) from error
    else:
        context = start_ray(
            address=LOCAL,
            num_cpus=num_cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=True,
            dashboard_host=LOOPBACK,
            _node_ip_address=LOOPBACK,
            **common,
        )
    url = str(getattr(context, "dashboard_url", "") or "")
    try:
        yield RaySession(private=address is None, dashboard=f"http://{url}" if url else "")
    finally:
        ray.shutdown()


def check_ports(http_port: int) -> None:
    """Serve's port is free. The dashboard takes the next free one by itself."""
    check_port(http_port, "Serve's HTTP proxy")
