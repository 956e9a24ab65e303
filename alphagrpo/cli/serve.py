"""``alphagrpo serve``: bring the services up from a Serve config, look at them, take them down."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from alphagrpo.cli.console import Narrator, print_json, print_table
from alphagrpo.cli.ray_session import RaySession, check_ports, joinable_address, ray_session
from alphagrpo.cli.ray_start import set_environment
from alphagrpo.cli.serving import deployed, private_cpus, teller
from alphagrpo.errors import ConfigError, EnvironmentProblem

if TYPE_CHECKING:
    from services.serve_config import ServeFile

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
    address = joinable_address()
    set_environment(private=address is None)
    from services.serve_config import load_serve_file

    serve_file = load_serve_file(path)
    if address is None:
        check_ports(serve_file.http_port)
    with ray_session(address, num_cpus=private_cpus(serve_file)) as session:
        if session.private:
            with deployed(serve_file, narrator, session):
                tell_addresses(serve_file.applications, narrator)
                _wait_for_the_end(session, narrator)
        else:
            _deploy(serve_file, narrator)
            tell_addresses(serve_file.applications, narrator)
    return 0


def _deploy(serve_file: ServeFile, narrator: Narrator) -> None:
    """Into a cluster that goes on without this command."""
    from services.deploying import ensure_deployed

    with narrator.stage(f"deploying {', '.join(serve_file.applications)}"):
        ensure_deployed(serve_file, progress=teller(narrator))


def tell_addresses(names: Sequence[str], narrator: Narrator) -> None:
    """Say where each application answers, and how a gateway is called."""
    from services.addresses import addresses

    for address in addresses(names):
        where = address.url or "by handle alone"
        lines = [f"{address.application}: {where}; {address.handle}"]
        if address.routes:
            lines += [f"routes {' '.join(address.routes)}", f"health {address.health}"]
            lines += [f"documentation {address.url}/docs", f"try {address.call}"]
        fields = {**asdict(address), "call": address.call}
        if narrator.as_json:
            narrator.say(lines[0], **fields)
        else:
            for line in lines:
                narrator.say(line)


def _wait_for_the_end(session: RaySession, narrator: Narrator) -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    narrator.say(
        f"serving; {session.dashboard_line}; Ctrl-C or SIGTERM takes all down",
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
    from services.serve_config import read_serve_file

    deployed_apps = list(serve.status().applications)
    names = list(read_serve_file(config).applications) if config else deployed_apps
    undeploy(names)
    narrator.say(f"deleted: {', '.join(n for n in names if n in deployed_apps) or 'nothing'}")
    return 0
