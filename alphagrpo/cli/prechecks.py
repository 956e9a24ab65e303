"""Everything that can be known to be wrong before anything is started.

Nothing here imports torch or ray. Each check raises a ConfigError or an EnvironmentProblem with the
rule, the value got and the remedy.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from alphagrpo.cli.placement import Placement
from alphagrpo.config import RunConfig
from alphagrpo.data import check_source
from alphagrpo.errors import ConfigError, EnvironmentProblem

if TYPE_CHECKING:
    from alphagrpo.policy.memory import MemoryEstimate

GIB = 2**30
RAY_BYTES = int(1.2 * GIB)
"""Ray and Serve themselves: object store, dashboard, controller, proxy (measured 1.0-1.3 GiB)."""
PROCESS_BYTES = int(0.45 * GIB)
"""A Python process with torch and ray imported."""
GPU_PROCESS_BYTES = 4 * GIB
"""Main memory of a process whose model is on a GPU (measured 4.0 GB at 7B on an H200)."""
STORE_BYTES = 300 * 2**20
"""Object store of a private cluster at least: weights of a few million parameters twice and a
step's trajectories are tens of MB."""
REPLICA_BYTES = int(0.9 * GIB)
"""A Serve replica with a vLLM engine of a miniature model on the CPU (measured 0.8 GB)."""
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the driver of a submitted job, and nowhere else."""


def check_prompts(config: RunConfig) -> None:
    """The prompt sources exist and read well."""
    for source in (config.data.train, config.data.heldout):
        check_source(source)


def check_written_paths(config: RunConfig) -> None:
    """What a run inside a Ray job writes is still there when the job has ended.

    A job works in Ray's copy of its ``working_dir``: another folder on every node and at every
    submission, deleted when nobody uses it.
    """
    if JOB_VARIABLE not in os.environ:
        return
    working_dir = Path.cwd()
    written = {"output": config.output, "services.question_store": config.services.question_store}
    for key, path in written.items():
        if path is not None and (path.is_relative_to(working_dir) or not path.is_absolute()):
            raise ConfigError(
                f"inside a Ray job {key} must be an absolute path on storage that all nodes share, "
                f"got {path}, which would lie in {working_dir} and go with the job; add --set "
                f"{key}=/shared/folder"
            )


def check_memory(
    config: RunConfig, placement: Placement, sizes: MemoryEstimate, store_bytes: int
) -> int:
    """The machine has room for the mesh; returns the estimate in bytes.

    ``store_bytes`` is what Ray's object store may take. Only meaningful where the whole mesh runs
    on this machine.
    """
    import psutil

    need = host_bytes(config, placement, sizes) + max(0, store_bytes - STORE_BYTES)
    free = psutil.virtual_memory().available
    if need > free:
        raise EnvironmentProblem(
            f"the mesh needs about {need / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free; "
            "stop other programs, lower rollout.num_runners or the replicas in the Serve config"
        )
    return need


def host_bytes(config: RunConfig, placement: Placement, sizes: MemoryEstimate) -> int:
    """Main memory of the mesh with Ray's usual object store: what lies on a GPU is not counted."""
    learner, rollout = config.learner, config.rollout
    shared = learner.placement == "runners"
    runner_bytes = sizes.shared if shared else sizes.runner
    holders = [(runner_bytes, rollout.gpus_per_runner)] * rollout.num_runners
    if not shared:
        holders += [(sizes.learner, learner.gpus)] * learner.ranks
    need = RAY_BYTES + 2 * PROCESS_BYTES  # this process and the registry of weights
    need += sum(GPU_PROCESS_BYTES if gpus > 0 else PROCESS_BYTES + held for held, gpus in holders)
    return need + sum(
        role.count * (GPU_PROCESS_BYTES if role.gpus > 0 else REPLICA_BYTES)
        for role in placement.replicas
    )


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
