"""What the Ray that runs here listens on, and which of it other machines can reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psutil import Process

OWN_NAMES = ("gcs_server", "raylet")
TITLES = ("ray::", "ray-dashboard", "VLLM::")
"""How Ray's workers and vLLM's engines name themselves."""


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A port that a process of Ray's accepts connections on."""

    process: str
    address: str
    port: int

    @property
    def is_open(self) -> bool:
        """Whether another machine can reach it, firewalls apart."""
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return not (mapped or address).is_loopback


def ray_listeners(roots: Iterable[Process] | None = None) -> list[Listener]:
    """TCP ports of Ray's processes on this machine, of engines and drivers under them too.

    Args:
        roots: look at these and at what they have started instead.

    Processes of other users, whose ports cannot be seen, are left out.
    """
    import psutil

    found: dict[int, Process] = {}
    for root in _roots() if roots is None else roots:
        with suppress(psutil.Error):
            found |= {process.pid: process for process in (root, *root.children(recursive=True))}
    listeners = set()
    for process in found.values():
        with suppress(psutil.Error):
            name = _name(process)
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    listeners.add(Listener(name, connection.laddr.ip, connection.laddr.port))
    return sorted(listeners)


def _roots() -> Iterator[Process]:
    """Servers, workers, and the driver that a private cluster's servers are children of."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if _is_ray(process):
                yield process
                parent = process.parent()
                if parent is not None and parent.pid > 1 and _name(process) == OWN_NAMES[0]:
                    yield parent


def _is_ray(process: Process) -> bool:
    line = process.cmdline()
    return bool(line) and (
        line[0].startswith(TITLES)
        or Path(line[0]).name in OWN_NAMES
        or any("/site-packages/ray/" in word for word in line[:4])
    )


def _name(process: Process) -> str:
    """A worker's title without Ray's mark; else the name of the script, or of the program."""
    line = process.cmdline()
    if not line:
        return process.name()
    if line[0].startswith(TITLES):
        return line[0].removeprefix("ray::").split()[0].partition(".")[0]
    scripts = [word for word in line[1:] if not word.startswith("-")]
    script = Path(scripts[0]).name if Path(line[0]).name.startswith("python") and scripts else ""
    return script or Path(line[0]).name
