"""Bringing Serve applications up from a Serve config, and attaching to those already running."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus, ServeApplicationSchema, ServeDeploySchema

from alphagrpo.errors import EnvironmentProblem
from services.serve_config import ServeFile
from services.waiting import AppState, app_states

log = logging.getLogger(__name__)

Progress = Callable[[Mapping[str, AppState]], None]
"""Called with each application's state whenever a status changes, and every
:data:`SIGN_OF_LIFE_S` while nothing does.
"""
SIGN_OF_LIFE_S = 10.0

START_TIMEOUT_S = 900.0
"""Two engines start in a minute on two free cores, and take many times that on busy ones."""
STOP_TIMEOUT_S = 180.0
_POLL_S = 0.5
_LOG_LINES = 30
_LIVE = {ApplicationStatus.RUNNING, ApplicationStatus.DEPLOYING}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployReport:
    """What :func:`ensure_deployed` did."""

    started: tuple[str, ...]
    """Applications it deployed."""
    attached: tuple[str, ...]
    """Applications that were there already and were left as they are."""
    seconds: float
    """From asking to the last application running."""


def ensure_deployed(
    serve_file: ServeFile,
    *,
    progress: Progress | None = None,
    timeout_s: float = START_TIMEOUT_S,
) -> DeployReport:
    """Make every application of ``serve_file`` run in the connected cluster.

    Those that run already, whoever deployed them, are left as they are, replica counts included.
    Raises EnvironmentProblem with the replica's last log lines where an application cannot start
    or is late.
    """
    started = time.monotonic()
    names = list(serve_file.applications)
    running = running_applications()
    missing = [name for name in names if name not in running]
    if missing:
        with _telling(missing, progress):
            _apply(_merge(serve_file.schema, keep=running))
    _wait(names, progress, started + timeout_s)
    return DeployReport(
        started=tuple(missing),
        attached=tuple(name for name in names if name in running),
        seconds=time.monotonic() - started,
    )


def redeploy(
    serve_file: ServeFile,
    *,
    progress: Progress | None = None,
    timeout_s: float = START_TIMEOUT_S,
) -> None:
    """Bring running applications to what ``serve_file`` says, as ``serve deploy`` does.

    Applications deployed from another config stay. Raises as :func:`ensure_deployed`.
    """
    names = list(serve_file.applications)
    others = set(_statuses()) - set(names)
    _apply(_merge(serve_file.schema, keep=others))
    _wait(names, progress, time.monotonic() + timeout_s)


def undeploy(names: Iterable[str]) -> None:
    """Delete applications and wait until they are gone; those that are not there are skipped.

    One that does not go in time is logged and left to Serve: this runs when things end, where an
    error would hide the one that ended them.
    """
    leaving = set(names) & set(_statuses())
    for name in sorted(leaving):
        serve.delete(name, _blocking=False)
    until = time.monotonic() + STOP_TIMEOUT_S
    while leaving & set(_statuses()):
        if time.monotonic() > until:
            log.warning("still stopping: %s", ", ".join(sorted(leaving & set(_statuses()))))
            return
        time.sleep(_POLL_S)


def running_applications() -> set[str]:
    """Names of the connected cluster's applications that run or are about to."""
    return {name for name, status in _statuses().items() if status in _LIVE}


def _statuses() -> dict[str, ApplicationStatus]:
    """Status of every application of this cluster; empty where Serve is not running."""
    return {name: app.status for name, app in serve.status().applications.items()}


def _merge(config: ServeDeploySchema, keep: set[str]) -> ServeDeploySchema:
    """``config`` with the deployed form of the applications in ``keep``.

    Serve deletes what a newly applied config leaves out, so what others deployed from a config must
    be in it. Applications deployed by ``serve.run`` have no config and are never deleted so.
    """
    deployed = _deployed_configs()
    kept_apps = [deployed[name] for name in sorted(keep) if name in deployed]
    new_apps = [app for app in config.applications if app.name not in keep]
    return config.model_copy(update={"applications": [*new_apps, *kept_apps]})


def _deployed_configs() -> dict[str, ServeApplicationSchema]:
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return {}
    configs: dict[str, ServeApplicationSchema] = {}
    for name, app in client.get_serve_details()["applications"].items():
        if raw := app.get("deployed_app_config"):
            configs[name] = ServeApplicationSchema.model_validate(raw)
    return configs


@contextmanager
def _telling(names: list[str], progress: Progress | None) -> Iterator[None]:
    """Signs of life while Serve itself starts, which answers nobody before it has."""
    states = {name: AppState(name=name, waits_for="Serve to start") for name in names}
    ended = threading.Event()

    def tell() -> None:
        while progress is not None and not ended.wait(SIGN_OF_LIFE_S):
            progress(states)

    thread = threading.Thread(target=tell, name="sign-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _apply(config: ServeDeploySchema) -> None:
    """What ``serve run CONFIG`` does: start Serve where it is not running, apply the config."""
    if not ray.is_initialized():
        raise EnvironmentProblem(
            "services are deployed into a connected cluster, and Ray is not initialised; call "
            "ray.init first"
        )
    _start_serve(config).deploy_apps(config)


def _start_serve(config: ServeDeploySchema) -> Any:
    """Serve's client, of a Serve that runs or is started here."""
    from ray.serve._private.api import serve_start

    options: dict[str, Any] = {
        "http_options": config.http_options.model_dump(),
        "proxy_location": config.proxy_location,
    }
    try:
        return serve_start(**options)
    except TimeoutError:
        # Ray waits 60 s for the HTTP proxy, whatever is set. The controller runs and goes on
        # starting it; a second call finds the controller and does not wait.
        return serve_start(**options)


def _wait(names: list[str], progress: Progress | None, deadline: float) -> None:
    last_statuses: dict[str, str] = {}
    told_at = time.monotonic()
    while True:
        states = app_states(names)
        statuses = {name: state.status for name, state in states.items()}
        now = time.monotonic()
        if progress is not None and (statuses != last_statuses or now - told_at >= SIGN_OF_LIFE_S):
            last_statuses, told_at = statuses, now
            progress(states)
        # UNHEALTHY may pass, as when a replica is being replaced; DEPLOY_FAILED is final.
        failed = [name for name in names if statuses[name] == ApplicationStatus.DEPLOY_FAILED.value]
        if failed:
            raise EnvironmentProblem(_report(states[failed[0]], "did not start"))
        late = [name for name in names if statuses[name] != ApplicationStatus.RUNNING.value]
        if not late:
            return
        if now > deadline:
            raise EnvironmentProblem(_report(states[late[0]], "is late"))
        time.sleep(_POLL_S)


def _report(state: AppState, what: str) -> str:
    app = serve.status().applications.get(state.name)
    message = app.message.strip() if app is not None else "it is unknown to Serve"
    parts = [f"Serve application {state.name!r} must be running and {what}: {message}"]
    if state.waits_for:
        parts.append(f"  it waits for {state.waits_for}")
    if app is not None:
        parts += [
            f"  {deployment}: {status.status.value} {status.message.strip()}"
            for deployment, status in app.deployments.items()
            if status.message
        ]
    if tail := _log_tail(state.name):
        parts.append(f"last lines of its replica's log:\n{tail}")
    parts.append("fix the cause and start again")
    return "\n".join(parts)


def _log_tail(app: str) -> str:
    """The newest replica log of an application on this node; empty where there is none."""
    from ray._private.worker import global_worker

    node = getattr(global_worker, "node", None)
    if node is None:
        return ""
    logs = Path(node.get_logs_dir_path()) / "serve"
    files = sorted(logs.glob(f"replica_{app}_*.log"), key=lambda path: path.stat().st_mtime)
    if not files:
        return ""
    lines = files[-1].read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])
