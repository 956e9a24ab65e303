"""Everything that can be known to be wrong before anything is started.

Nothing here imports torch or ray. Each check raises a ConfigError or an EnvironmentProblem with the
rule, the value got and the remedy.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

from alphagrpo.cli.placement import Placement
from alphagrpo.config import RunConfig
from alphagrpo.data import check_source
from alphagrpo.errors import CheckpointError, ConfigError, EnvironmentProblem
from alphagrpo.models.bagel.config import BagelConfig

GIB = 2**30
RAY_BYTES = int(1.2 * GIB)
"""Ray and Serve themselves: object store, dashboard, controller, proxy (measured 1.0-1.3 GiB)."""
PROCESS_BYTES = int(0.45 * GIB)
"""A Python process with torch and ray imported."""
REPLICA_BYTES = int(0.9 * GIB)
"""A Serve replica with a vLLM engine of a miniature model on the CPU (measured 0.8 GB)."""
WEIGHT_FILES = ("ema.safetensors", "model.safetensors", "weights.safetensors")
AUTOENCODER_FILE = "ae.safetensors"


def check_prompts(config: RunConfig) -> None:
    """The prompt sources exist and read well."""
    for source in (config.data.train, config.data.heldout):
        check_source(source)


def check_checkpoint(folder: Path) -> BagelConfig:
    """The policy's folder is a whole BAGEL checkpoint; returns its shape.

    Files are checked by their headers and sizes, so a truncated one is found without reading it.
    """
    shape = BagelConfig.from_folder(folder)
    weights = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()][:1]
    if not weights:
        weights = _shards(folder)
    for path in (*weights, folder / AUTOENCODER_FILE):
        check_safetensors(path)
    return shape


def check_safetensors(path: Path) -> None:
    """Raise CheckpointError unless ``path`` is a safetensors file of its full length."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= size - 8 else None
    except FileNotFoundError:
        raise CheckpointError(
            f"a BAGEL checkpoint needs {path.name}, {path} does not exist; copy it there"
        ) from None
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} must be a safetensors file, its header does not read ({error}); fetch it again"
        ) from None
    ends = [t["data_offsets"][1] for name, t in (header or {}).items() if name != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    if header is None or size != expected:
        raise CheckpointError(
            f"{path} must be {expected:,} bytes long by its own header, got {size:,}; "
            "it is truncated: fetch it again"
        )


def check_geometry(config: RunConfig, shape: BagelConfig) -> None:
    """The picture fits the model's token grid."""
    side, most = shape.pixels_per_token, shape.max_latent_size
    for name, value in (("height", config.task.height), ("width", config.task.width)):
        if value % side or value // side > most:
            raise ConfigError(
                f"task.{name} must be a multiple of {side} pixels and at most {side * most} for "
                f"this model, got {value}; try {min(max(side, value // side * side), side * most)}"
            )


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

    found: set[str] = set()
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if line and Path(line[0]).name == "raylet":
            for argument in line:
                if argument.startswith("--gcs-address="):
                    found.add(argument.split("=", 1)[1])
    return tuple(sorted(found))


def check_no_foreign_cluster() -> None:
    """No Ray runs here that the user did not ask to join."""
    found = running_clusters()
    if found:
        raise EnvironmentProblem(
            f"a Ray cluster already runs on this machine ({', '.join(found)}) and RAY_ADDRESS does "
            f"not say what to do; join it with RAY_ADDRESS={found[0]}, start a private one beside "
            "it with RAY_ADDRESS=local, or stop it with `ray stop`"
        )


def _shards(folder: Path) -> list[Path]:
    for index in sorted(folder.glob("*.safetensors.index.json")):
        names = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()
        return [folder / name for name in sorted(set(names))]
    raise CheckpointError(
        f"a BAGEL checkpoint needs its weights, {folder} holds none of {', '.join(WEIGHT_FILES)} "
        "and no index of shards; copy ema.safetensors there"
    )
