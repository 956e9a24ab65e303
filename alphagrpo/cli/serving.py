"""The services a command needs: joined where they run, deployed where they do not."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from alphagrpo.cli.console import Narrator
from alphagrpo.cli.placement import application_names, read_serve_config, serve_roles
from alphagrpo.cli.prechecks import running_clusters
from alphagrpo.cli.ray_session import LOCAL, RaySession, ray_session
from alphagrpo.errors import ConfigError

DEFAULT_SERVE_CONFIG = Path("deploy/serve/shapes.yaml")


@contextmanager
def serving(
    serve_config: Path, narrator: Narrator, apps: Sequence[str] | None = None
) -> Iterator[RaySession]:
    """A cluster in which the applications ``apps`` (None: all) of ``serve_config`` run.

    A running cluster (``RAY_ADDRESS``, or one on this machine) is joined and left as it was; else a
    private one lives as long as the block.
    """
    raw = chosen(read_serve_config(serve_config), apps, serve_config)
    cpus = sum(role.total_cpus for role in serve_roles(raw))
    with ray_session(joinable_address(), num_cpus=int(cpus) + 2) as session:
        with deployed(raw, narrator, session):
            yield session


@contextmanager
def deployed(raw: Mapping[str, Any], narrator: Narrator, session: RaySession) -> Iterator[None]:
    """The applications of a Serve config run inside the block, in the connected cluster.

    They start at the same time: an engine spends most of its start importing, on one core. In a
    cluster that was there before, those this block deployed are deleted when it ends; a private one
    ends with all that runs in it.
    """
    from services.deploying import running_applications, undeploy

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    running = running_applications()
    missing = [name for name in application_names(raw) if name not in running]
    try:
        with narrator.stage(f"deploying {', '.join(missing)}" if missing else "joining services"):
            deploy(raw, _teller(narrator))
        yield
    finally:
        if not session.private:
            undeploy(missing)


DEPLOY_SECONDS = 900.0
"""Two vLLM engines start in a minute on two idle cores; on busy ones it takes many times that."""


def deploy(raw: Mapping[str, Any], progress: Callable[[Mapping[str, str]], None]) -> None:
    """Deploy the applications of a Serve config that do not run yet, and wait for all of them."""
    from services.deploying import ensure_deployed

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve.yaml"
        path.write_text(yaml.safe_dump(dict(raw)), encoding="utf-8")
        ensure_deployed(path, progress=progress, timeout_s=DEPLOY_SECONDS)


def chosen(raw: Mapping[str, Any], apps: Sequence[str] | None, source: Path) -> dict[str, Any]:
    """A Serve config with only the applications ``apps``; ConfigError where one is not there."""
    if apps is None:
        return dict(raw)
    by_name = dict(zip(application_names(raw), raw["applications"], strict=True))
    missing = [name for name in apps if name not in by_name]
    if missing:
        raise ConfigError(
            f"{source} must have the application {missing[0]!r}, it has "
            f"{', '.join(by_name)}; check services.*_app in the run config or the Serve config"
        )
    return {**raw, "applications": [by_name[name] for name in apps]}


def joinable_address() -> str | None:
    """Address of a cluster to join for a short command: RAY_ADDRESS, or the one that runs here."""
    import os

    address = os.environ.get("RAY_ADDRESS", "")
    if address:
        return None if address == LOCAL else address
    return "auto" if running_clusters() else None


def _teller(narrator: Narrator) -> Callable[[Mapping[str, str]], None]:
    """Says which application is in which state, when that changes."""
    known: dict[str, str] = {}

    def tell(states: Mapping[str, str]) -> None:
        for name, state in states.items():
            if known.get(name) != state:
                known[name] = state
                narrator.say(f"{name}: {state.lower().replace('_', ' ')}")

    return tell
