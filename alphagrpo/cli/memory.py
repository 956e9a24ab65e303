"""Memory of the whole mesh on this machine, measured rather than estimated."""

from __future__ import annotations

from collections.abc import Iterable

import psutil

from alphagrpo.cli.prechecks import GIB

RAY_PROCESSES = ("raylet", "gcs_server")


class MemoryGauge:
    """Largest sum of proportional set sizes seen, over this process and the Ray it works on.

    The proportional size divides each shared page among those who map it, so that the sum over
    processes counts the object store once.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.by_name: dict[str, int] = {}

    def sample(self) -> int:
        """Measure now; remember it where it is the largest so far. Takes some 0.1 s."""
        sizes: dict[str, int] = {}
        for process in mesh_processes():
            try:
                with process.oneshot():
                    name, size = _label(process), _proportional(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            sizes[name] = sizes.get(name, 0) + size
        total = sum(sizes.values())
        if total > self.peak_bytes:
            self.peak_bytes, self.by_name = total, sizes
        return total

    def figures(self) -> dict[str, float]:
        """``mesh_gib`` and the largest kinds of processes, in GiB."""
        largest = sorted(self.by_name.items(), key=lambda item: -item[1])[:8]
        parts = {f"{name}_gib": round(size / GIB, 3) for name, size in largest}
        return {"mesh_gib": round(self.peak_bytes / GIB, 3), **parts}


def mesh_processes() -> set[psutil.Process]:
    """This process, its descendants, and all Ray processes of this machine with theirs."""
    roots = [psutil.Process(), *_ray_roots()]
    processes = set(roots)
    for root in roots:
        try:
            processes.update(root.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    return processes


def _ray_roots() -> Iterable[psutil.Process]:
    """Ray's own processes, unless Ray is a child of this process (then they are counted anyway)."""
    descendants = psutil.Process().children(recursive=True)
    if any(process.name() in RAY_PROCESSES for process in descendants):
        return []
    return [p for p in psutil.process_iter(["name"]) if p.info["name"] in RAY_PROCESSES]


def _proportional(process: psutil.Process) -> int:
    full = process.memory_full_info()
    return int(getattr(full, "pss", 0) or full.rss)


def _label(process: psutil.Process) -> str:
    """``ray::RolloutRunner.draw`` and the like become their actor's name; the rest stays."""
    line = process.cmdline()
    title = line[0] if line else process.name()
    if title.startswith("ray::"):
        return title.removeprefix("ray::").split(".")[0].split(":")[-1].split("(")[0].strip()
    if "dashboard" in " ".join(line[:4]):
        return "ray dashboard"
    return "driver" if process.pid == psutil.Process().pid else process.name()
