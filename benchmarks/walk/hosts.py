"""Machines of a cluster, played by folders of this one: each has a home, a temp dir, a place.

As a module it is the ``ray start`` of such a machine, patient where this one is busy:
``python -m benchmarks.walk.hosts --head ...``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphagrpo.cli.ray_start import PATIENCE, free_ports, known_agent_ports, set_environment

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ("RAY_", "ALPHAGRPO_", "PYTHONPATH", "VIRTUAL_ENV", "HF_")
"""Prefixes of what this process's environment must not tell another machine."""
STORE_BYTES = 200 << 20
STOP_SECONDS = 90.0
"""For Ctrl-C to take a private cluster down, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Background:
    """A command that goes on."""

    path: Path
    process: subprocess.Popen[bytes]

    def log(self) -> str:
        """What it said so far; RuntimeError where it has ended."""
        text = self.path.read_text(encoding="utf-8", errors="replace")
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.path.stem} ended: {text[-2000:]}")
        return text


@dataclass(slots=True)
class Host:
    """One machine: what runs on it sees its own home, temp dir and working directory."""

    name: str
    folder: Path
    pythonpath: str = ""
    """For code that is on the machine and not installed there."""
    node: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name in ("home", "tmp", "cwd"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def token_path(self) -> Path:
        """Where Ray looks for the token."""
        return self.folder / "home" / ".ray" / "auth_token"

    @property
    def log(self) -> Path:
        """What the node's ``ray start`` says."""
        return self.folder / "ray-start.log"

    def give_token(self, token: str) -> None:
        """As ``file_mounts`` of a cluster file does."""
        self.token_path.parent.mkdir(parents=True, exist_ok=True)
        self.token_path.touch(mode=0o600)
        self.token_path.write_text(token, encoding="utf-8")

    def environment(self, **more: str) -> dict[str, str]:
        """Of a process on this machine."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        scripts = str(Path(sys.executable).parent)
        return {
            **kept,
            **PATIENCE,
            "HOME": str(self.folder / "home"),
            "PATH": os.pathsep.join([scripts, kept.get("PATH", "")]),
            "PYTHONPATH": self.pythonpath,
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            **more,
        }

    def start_node(self, *arguments: str, pool: str, cpus: float) -> None:
        """``ray start`` with a label; it goes on until :meth:`stop`."""
        command = [
            sys.executable, "-m", "benchmarks.walk.hosts", *arguments, "--block",
            f"--temp-dir={self.folder / 'tmp'}", f"--labels=mesh.pool={pool}",
            f"--num-cpus={cpus:g}", f"--object-store-memory={STORE_BYTES}",
            "--node-ip-address=127.0.0.1",
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.node = subprocess.Popen(
                command,
                cwd=self.folder / "cwd",
                env=self.environment(
                    RAY_AUTH_MODE="token", PYTHONPATH=self.pythonpath or str(ROOT)
                ),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(
        self, *command: str, timeout_s: float = 300.0, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """A command typed on this machine, to its end."""
        return subprocess.run(
            command,
            cwd=cwd or self.folder / "cwd",
            env=self.environment(**env),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    @contextmanager
    def background(self, *command: str, **env: str) -> Iterator[Background]:
        """A command that goes on in a terminal of its own; Ctrl-C at the block's end."""
        path = self.folder / f"{command[0]}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder / "cwd",
                env=self.environment(**env),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Background(path, process)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def gcs_address(self) -> str:
        """Of the cluster that runs on this machine."""
        flag = "--gcs-address="
        words = [word for p in processes_of(self.folder) for word in p.info["cmdline"] or []]
        return next(word.removeprefix(flag) for word in words if word.startswith(flag))

    def stop(self) -> None:
        """End the node as a machine that is switched off: everything that it started."""
        if self.node is None:
            return
        for number, patience_s in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)):
            kill_all(processes_of(self.folder), number)
            if number is signal.SIGTERM:
                self.node.terminate()
            until = time.monotonic() + patience_s
            while processes_of(self.folder) and time.monotonic() < until:
                time.sleep(0.2)
        self.node.kill()
        self.node.wait()
        self.node = None


def processes_of(folder: Path) -> list[Any]:
    """Processes of the machine that this folder is: they have its home. Of each, in ``info``, its
    name and command line as they were when it was found; it may have ended since.
    """
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "environ", "name", "cmdline"]):
        environ = process.info["environ"] or {}
        if environ.get("HOME") == str(folder / "home") and process.pid != os.getpid():
            found.append(process)
    return found


def kill_all(processes: Sequence[Any], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def main(arguments: Sequence[str]) -> None:
    """``ray start`` with agents on known ports (:func:`known_agent_ports`)."""
    set_environment(private=True)
    grpc, http, runtime_env, metrics = free_ports(4)
    ports = {
        "dashboard-agent-grpc-port": grpc,
        "dashboard-agent-listen-port": http,
        "runtime-env-agent-port": runtime_env,
        "metrics-export-port": metrics,
    }
    with known_agent_ports(grpc, http, runtime_env):
        from ray.scripts.scripts import main as ray_command

        flags = [f"--{name}={port}" for name, port in ports.items()]
        sys.argv = ["ray", "start", *arguments, *flags]
        ray_command()


if __name__ == "__main__":
    main(sys.argv[1:])
