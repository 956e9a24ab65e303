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
from alphagrpo.cli.placement import read_serve_config, serve_roles
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

    They are deployed one after the other: on two cores two starting engines would only slow each
    other down. In a cluster that was there before, those this block deployed are deleted when it
    ends; a private one ends with all that runs in it.
    """
    from services.deploying import undeploy

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    started: list[str] = []
    try:
        for app in raw["applications"]:
            name = str(app.get("name", "default"))
            with narrator.stage(f"deploying {name}"):
                started += deploy_one(raw, app, _teller(narrator, name))
        yield
    finally:
        if not session.private:
            undeploy(reversed(started))


DEPLOY_SECONDS = 600.0
"""Two vLLM engines start in 30 s each on two idle cores; on busy ones it takes many times that."""


def deploy_one(
    raw: Mapping[str, Any], app: Mapping[str, Any], progress: Callable[[Mapping[str, str]], None]
) -> tuple[str, ...]:
    """Deploy one application of a Serve config unless it runs; returns the names it started."""
    from services.deploying import ensure_deployed

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve.yaml"
        path.write_text(yaml.safe_dump({**raw, "applications": [app]}), encoding="utf-8")
        report = ensure_deployed(path, progress=progress, timeout_s=DEPLOY_SECONDS)
        return report.started


def chosen(raw: Mapping[str, Any], apps: Sequence[str] | None, source: Path) -> dict[str, Any]:
    """A Serve config with only the applications ``apps``; ConfigError where one is not there."""
    if apps is None:
        return dict(raw)
    by_name = {str(app.get("name", "default")): app for app in raw["applications"]}
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


def _teller(narrator: Narrator, name: str) -> Callable[[Mapping[str, str]], None]:
    def tell(states: Mapping[str, str]) -> None:
        narrator.say(f"{name}: {states.get(name, 'unknown').lower().replace('_', ' ')}")

    return tell
