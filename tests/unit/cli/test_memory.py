"""Memory of the mesh: which processes count, under which name, and the largest moment."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from alphagrpo.cli import memory
from alphagrpo.cli.memory import MemoryGauge, mesh_processes
from alphagrpo.cli.prechecks import GIB


class FakeProcess:
    def __init__(
        self,
        title: str,
        gib: float,
        *arguments: str,
        pid: int = 2,
        pss: bool = True,
        gone: bool = False,
        children: tuple[FakeProcess, ...] = (),
    ) -> None:
        self.line, self.pid, self.gone = [title, *arguments], pid, gone
        size = int(gib * GIB)
        self.sizes = SimpleNamespace(pss=size if pss else 0, rss=size)
        self.below = children
        self.info = {"name": title}

    def oneshot(self) -> Any:
        return nullcontext()

    def cmdline(self) -> list[str]:
        return self.line

    def name(self) -> str:
        return self.line[0]

    def memory_full_info(self) -> Any:
        if self.gone:
            raise psutil.NoSuchProcess(self.pid)
        return self.sizes

    def children(self, recursive: bool) -> tuple[FakeProcess, ...]:
        assert recursive
        if self.gone:
            raise psutil.NoSuchProcess(self.pid)
        return self.below


@pytest.mark.parametrize(
    ("process", "name"),
    [
        (FakeProcess("ray::RolloutRunner.roll_out", 1), "RolloutRunner"),
        (FakeProcess("ray::ServeReplica:verifier:Verifier", 1), "Verifier"),
        (FakeProcess("ray::Learner(v=1)", 1), "Learner"),
        (FakeProcess("python", 1, "dashboard/agent.py"), "ray dashboard"),
        (FakeProcess("raylet", 1), "raylet"),
    ],
)
def test_processes_are_named_after_their_actor(process: FakeProcess, name: str) -> None:
    assert memory._label(process) == name


def test_this_process_is_the_driver() -> None:
    assert memory._label(psutil.Process()) == "driver"


def test_the_largest_moment_is_kept_with_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(
        [
            [FakeProcess("ray::Runner.a", 1), FakeProcess("ray::Runner.b", 2)],
            [FakeProcess("ray::Runner.a", 3), FakeProcess("raylet", 0.5, pss=False)],
            [FakeProcess("ray::Runner.a", 1), FakeProcess("raylet", 9, gone=True)],
        ]
    )
    monkeypatch.setattr(memory, "mesh_processes", lambda: next(moments))
    gauge = MemoryGauge()
    assert [gauge.sample() / GIB for _ in range(3)] == [3.0, 3.5, 1.0]
    assert gauge.figures() == {"mesh_gib": 3.5, "Runner_gib": 3.0, "raylet_gib": 0.5}


def test_only_the_eight_largest_kinds_are_told() -> None:
    gauge = MemoryGauge()
    gauge.by_name = {f"kind{i}": i * GIB for i in range(12)}
    assert list(gauge.figures())[1:] == [f"kind{i}_gib" for i in range(11, 3, -1)]


def machine(monkeypatch: pytest.MonkeyPatch, own: FakeProcess, *others: FakeProcess) -> None:
    monkeypatch.setattr(psutil, "Process", lambda: own)
    monkeypatch.setattr(psutil, "process_iter", lambda attributes: [own, *others])


def test_a_ray_beside_this_process_counts_with_its_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, stranger = FakeProcess("ray::Runner", 1), FakeProcess("firefox", 9)
    raylet, gcs = FakeProcess("raylet", 1, children=(worker,)), FakeProcess("gcs_server", 1)
    child = FakeProcess("python", 1)
    own = FakeProcess("alphagrpo", 1, children=(child,))
    machine(monkeypatch, own, raylet, gcs, stranger)
    assert mesh_processes() == {own, child, raylet, gcs, worker}


def test_another_ray_does_not_count_where_this_process_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raylet = FakeProcess("raylet", 1)
    own = FakeProcess("alphagrpo", 1, children=(raylet,))
    machine(monkeypatch, own, raylet, FakeProcess("raylet", 1))
    assert mesh_processes() == {own, raylet}


def test_a_process_that_ends_meanwhile_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    own, gone = FakeProcess("alphagrpo", 1), FakeProcess("raylet", 1, gone=True)
    machine(monkeypatch, own, gone)
    assert mesh_processes() == {own, gone}
