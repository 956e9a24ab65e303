"""``alphagrpo serve``: bring the services up from a Serve config, look at them, take them down."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from alphagrpo.cli.console import Narrator, print_json, print_table
from alphagrpo.cli.placement import application_names, read_serve_config, serve_roles
from alphagrpo.cli.ray_session import RaySession, check_ports, ray_session
from alphagrpo.cli.serving import deploy, deployed, joinable_address
from alphagrpo.errors import ConfigError, EnvironmentProblem

HELP = "deploy the services of a Serve config, show them, or take them down"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a Serve YAML file")
    parser.add_argument("--status", action="store_true", help="show what runs")
    parser.add_argument("--down", action="store_true", help="delete CONFIG's applications, or all")
    parser.add_argument("--json", action="store_true", help="JSON lines for a machine")


def run(args: argparse.Namespace) -> int:
    """Deploy, show or delete applications."""
    narrator = Narrator(as_json=args.json)
    if args.status or args.down:
        address = joinable_address()
        if address is None:
            raise EnvironmentProblem(
                "no Ray cluster runs here; start one with `ray start --head` or name it in "
                "RAY_ADDRESS"
            )
        with ray_session(address, num_cpus=0):
            return _status(narrator) if args.status else _down(args.config, narrator)
    if args.config is None:
        raise ConfigError("serve needs a Serve config, --status or --down; got none of them")
    return _up(args.config, narrator)


def _up(path: Path, narrator: Narrator) -> int:
    raw = read_serve_config(path)
    address = joinable_address()
    if address is None:
        check_ports(int((raw.get("http_options") or {}).get("port", 8000)))
    cpus = sum(role.total_cpus for role in serve_roles(raw))
    with ray_session(address, num_cpus=int(cpus) + 2) as session:
        if not session.private:
            with narrator.stage(f"deploying {', '.join(application_names(raw))}"):
                deploy(raw, lambda states: None)
            return 0
        with deployed(raw, narrator, session):
            _wait_for_the_end(session, narrator)
    return 0


def _wait_for_the_end(session: RaySession, narrator: Narrator) -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    narrator.say(
        f"serving; dashboard {session.dashboard}; Ctrl-C or SIGTERM takes all down",
        dashboard=session.dashboard,
    )
    ended.wait()


def _status(narrator: Narrator) -> int:
    from ray import serve

    rows = [
        (name, app.status.value, deployment, str(dict(status.replica_states)))
        for name, app in serve.status().applications.items()
        for deployment, status in app.deployments.items()
    ]
    if narrator.as_json:
        keys = ("application", "status", "deployment", "replicas")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
    else:
        columns = ("application", "status", "deployment", "replicas")
        print_table(narrator.console, "Serve applications", rows, columns)
    return 0


def _down(config: Path | None, narrator: Narrator) -> int:
    from ray import serve

    from services.deploying import undeploy

    there = list(serve.status().applications)
    names = list(application_names(read_serve_config(config))) if config else there
    undeploy(names)
    narrator.say(f"deleted: {', '.join(n for n in names if n in there) or 'nothing'}")
    return 0
