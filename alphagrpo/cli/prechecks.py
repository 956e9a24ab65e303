"""Everything that can be known to be wrong before anything is started.

Nothing here imports torch or ray. Each check raises a ConfigError or an EnvironmentProblem with the
rule, the value got and the remedy.
"""

from __future__ import annotations

import socket
from pathlib import Path

from alphagrpo.cli.placement import Placement
from alphagrpo.config import RunConfig
from alphagrpo.data import check_source
from alphagrpo.errors import EnvironmentProblem

GIB = 2**30
RAY_BYTES = int(1.2 * GIB)
"""Ray and Serve themselves: object store, dashboard, controller, proxy (measured 1.0-1.3 GiB)."""
PROCESS_BYTES = int(0.45 * GIB)
"""A Python process with torch and ray imported."""
REPLICA_BYTES = int(0.9 * GIB)
"""A Serve replica with a vLLM engine of a miniature model on the CPU (measured 0.8 GB)."""


def check_prompts(config: RunConfig) -> None:
    """The prompt sources exist and read well."""
    for source in (config.data.train, config.data.heldout):
        check_source(source)


def check_memory(config: RunConfig, placement: Placement, model_bytes: int) -> int:
    """The machine has room for the mesh; returns the estimate in bytes.

    ``model_bytes`` is what learner and runners hold of the model together. Only meaningful where
    the whole mesh runs on this machine.
    """
    import psutil

    processes = config.rollout.num_runners + 2
    need = RAY_BYTES + processes * PROCESS_BYTES + placement.num_replicas * REPLICA_BYTES
    need += model_bytes
    free = psutil.virtual_memory().available
    if need > free:
        raise EnvironmentProblem(
            f"the mesh needs about {need / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free; "
            "stop other programs, lower rollout.num_runners or the replicas in the Serve config"
        )
    return need


def check_port(port: int, what: str) -> None:
    """Nothing listens on ``port`` of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise EnvironmentProblem(
                f"{what} needs port {port}, something listens there already; stop it (is another "
                "Serve running? `serve shutdown`), or change the port in the Serve config"
            )


def running_clusters() -> tuple[str, ...]:
    """Addresses of Ray clusters whose head or worker runs on this machine, by process list."""
    import psutil

    addresses: set[str] = set()
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if line and Path(line[0]).name == "raylet":
            for argument in line:
                if argument.startswith("--gcs-address="):
                    addresses.add(argument.split("=", 1)[1])
    return tuple(sorted(addresses))


def check_no_foreign_cluster() -> None:
    """No Ray runs here that the user did not ask to join."""
    addresses = running_clusters()
    if addresses:
        raise EnvironmentProblem(
            f"a Ray cluster already runs on this machine ({', '.join(addresses)}) and RAY_ADDRESS "
            f"does not say what to do; join it with RAY_ADDRESS={addresses[0]}, start a private "
            "one beside it with RAY_ADDRESS=local, or stop it with `ray stop`"
        )
