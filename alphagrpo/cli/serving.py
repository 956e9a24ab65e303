"""The services a command needs: joined where they run, deployed where they do not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from alphagrpo.cli.console import Narrator, duration
from alphagrpo.cli.placement import serve_roles
from alphagrpo.cli.ray_session import RaySession, joinable_address, ray_session
from alphagrpo.cli.ray_start import set_environment

if TYPE_CHECKING:
    from services.serve_config import ServeFile
    from services.waiting import AppState

DEFAULT_SERVE_CONFIG = Path("deploy/serve/shapes.yaml")


@contextmanager
def serving(
    serve_config: Path, narrator: Narrator, apps: Sequence[str] | None = None
) -> Iterator[RaySession]:
    """A cluster in which the applications ``apps`` (None: all) of ``serve_config`` run.

    A running cluster (``RAY_ADDRESS``, or one on this machine) is joined and left as it was; else a
    private one lives as long as the block.
    """
    address = joinable_address()
    set_environment(private=address is None)
    from services.serve_config import load_serve_file

    serve_file = load_serve_file(serve_config, apps)
    with ray_session(address, num_cpus=private_cpus(serve_file)) as session:
        with deployed(serve_file, narrator, session):
            yield session


def private_cpus(serve_file: ServeFile) -> int:
    """Logical CPUs of a private cluster in which the file's replicas fit, two to spare."""
    return int(sum(role.total_cpus for role in serve_roles(serve_file))) + 2


@contextmanager
def deployed(serve_file: ServeFile, narrator: Narrator, session: RaySession) -> Iterator[None]:
    """The applications of ``serve_file`` run inside the block, in the connected cluster.

    They start at the same time: an engine spends most of its start importing, on one core. In a
    cluster that was there before, those this block deployed are deleted when it ends; a private one
    ends with all that runs in it.
    """
    from services.deploying import ensure_deployed, running_applications, undeploy

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    running = running_applications()
    missing_apps = [name for name in serve_file.applications if name not in running]
    try:
        with narrator.stage(
            f"deploying {', '.join(missing_apps)}" if missing_apps else "joining services"
        ):
            ensure_deployed(serve_file, progress=teller(narrator))
        yield
    finally:
        if not session.private:
            undeploy(missing_apps)


def teller(narrator: Narrator) -> Callable[[Mapping[str, AppState]], None]:
    """Says what each application is at: when its status changes, and while it is waited for."""
    last_statuses: dict[str, str] = {}
    started = perf_counter()

    def tell(states: Mapping[str, AppState]) -> None:
        for name, state in states.items():
            if state.status == "RUNNING" == last_statuses.get(name):
                continue
            last_statuses[name] = state.status
            seconds = perf_counter() - started
            text = f"{name}: {state.status.lower().replace('_', ' ')}"
            if state.wanted:
                text += f", {state.running} of {state.wanted} replicas"
            if state.waits_for:
                text += f", waits for {state.waits_for} ({duration(seconds)})"
            narrator.say(
                text,
                application=name,
                status=state.status,
                running=state.running,
                wanted=state.wanted,
                waits_for=state.waits_for,
                seconds=round(seconds, 1),
            )

    return tell
