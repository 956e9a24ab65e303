"""Joining a Ray cluster, or starting a private one and cleaning it up again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from alphagrpo.cli import prechecks
from alphagrpo.cli.prechecks import check_port
from alphagrpo.cli.ray_start import (
    LOOPBACK,
    kept_sigterm,
    set_environment,
    start_ray,
    stay_at_home,
)
from alphagrpo.cli.ray_token import ensure_token, token_mode, token_place, use_token_of
from alphagrpo.errors import EnvironmentProblem

NAMESPACE = "alphagrpo"
LABELS = {"mesh.pool": "all"}
"""Of the one node of a private cluster: the 7B recipe's selectors name it beside each pool."""
LOCAL, AUTO = "local", "auto"
"""Ray's own words for "start a private cluster, whatever runs beside it" and "the one here"."""


@dataclass(frozen=True, slots=True)
class RaySession:
    """The cluster a command works on."""

    private: bool
    """Started here, so stopped here."""
    dashboard: str
    """URL, or empty where there is none."""

    @property
    def dashboard_line(self) -> str:
        """Where the dashboard is, and where the token is that its first page asks for."""
        if not token_mode():
            return f"dashboard: {self.dashboard}"
        return f"dashboard: {self.dashboard} (its page asks for the token in {token_place()})"


def address_to_join() -> str | None:
    """Address of the cluster a run joins; None to start a private one.

    ``RAY_ADDRESS`` decides; a driver inside a Ray job has it set by Ray. Raises EnvironmentProblem
    where it says nothing and a cluster already runs here, or where the cluster cannot be joined.
    """
    if not os.environ.get("RAY_ADDRESS"):
        prechecks.check_no_foreign_cluster()
    return joinable_address()


def joinable_address() -> str | None:
    """Address of the cluster a short command joins: ``RAY_ADDRESS``, or the one that runs here.

    None to start a private one. Ray's token, where that cluster asks for it, is used from here on.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named == LOCAL:
        return None
    if named in ("", AUTO):
        address = _cluster_here(must_be=named == AUTO)
    else:
        address = named
        _check_form(named)
    if address is not None:
        use_token_of(address)
        if address.startswith(f"{LOOPBACK}:") and address in prechecks.running_clusters():
            stay_at_home()
    return address


def _cluster_here(*, must_be: bool) -> str | None:
    addresses = prechecks.running_clusters()
    if len(addresses) > 1:
        raise EnvironmentProblem(
            f"one cluster of several must be named, {', '.join(addresses)} run here; set "
            "RAY_ADDRESS to one of them, or to local for a private one"
        )
    if must_be and not addresses:
        raise EnvironmentProblem(
            "RAY_ADDRESS is auto and no Ray runs on this machine; start it with `ray start`, or "
            "unset RAY_ADDRESS for a private one"
        )
    return addresses[0] if addresses else None


def _check_form(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if "://" in address or not (host and colon and port.isdigit()):
        raise EnvironmentProblem(
            f"RAY_ADDRESS must be host:port of the cluster's GCS, auto or local, got {address!r}; "
            "from a machine outside the cluster, give the dashboard's URL to `ray job submit` in "
            "RAY_API_SERVER_ADDRESS"
        )


@contextmanager
def ray_session(
    address: str | None,
    *,
    num_cpus: int,
    store_bytes: int = prechecks.STORE_BYTES,
    quiet: bool = True,
) -> Iterator[RaySession]:
    """Join the cluster at ``address``, or start a private one of ``num_cpus`` logical CPUs.

    The private one listens on loopback, but for a port of each Serve replica, and asks for Ray's
    token (:mod:`.ray_token`) unless RAY_AUTH_MODE says otherwise (docs/security.md has all ports).
    ``serve`` of the same user finds it with ``RAY_AUTH_MODE=token``. On leaving, what was started
    here is stopped, and nothing else. A process that is connected already stays as it is.
    """
    set_environment(private=address is None)
    if address is None:
        # It has done its work; processes of the private cluster would take it for an address.
        os.environ.pop("RAY_ADDRESS", None)
        if token_mode():
            ensure_token()
    import ray

    if ray.is_initialized():  # an embedding program's connection: neither ours to make nor to end
        yield RaySession(private=False, dashboard="")
        return
    common: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": not quiet,
        "logging_level": "WARNING",
    }
    try:
        if address is not None:
            context = _join(address, **common)
        else:
            context = start_ray(
                address=LOCAL,
                num_cpus=num_cpus,
                object_store_memory=store_bytes,
                labels=LABELS,
                include_dashboard=True,
                dashboard_host=LOOPBACK,
                **common,
            )
        url = str(getattr(context, "dashboard_url", "") or "")
        yield RaySession(private=address is None, dashboard=f"http://{url}" if url else "")
    finally:
        ray.shutdown()


def _join(address: str, **options: Any) -> Any:
    """``ray.init`` at a running cluster; EnvironmentProblem where this process cannot join it."""
    import ray

    try:
        with kept_sigterm():
            return ray.init(address=address, **options)
    except (ConnectionError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"a command runs on a node of the cluster that it joins, {address} answers and "
            f"this process cannot be part of it ({error}); run it on a node of that cluster, "
            "as `ray job submit` does"
        ) from error


def check_ports(http_port: int) -> None:
    """Serve's port is free. The dashboard takes the next free one by itself."""
    check_port(http_port, "Serve's HTTP proxy")
