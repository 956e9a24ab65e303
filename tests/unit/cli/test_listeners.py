"""Which ports other machines could reach."""

from __future__ import annotations

import socket
import subprocess
import sys

import psutil
import pytest

from alphagrpo.cli import doctor, listeners
from alphagrpo.cli.listeners import Listener, ray_listeners

LISTENING = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        ("127.0.0.1", False),
        ("127.0.1.1", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.0.2.7", True),
        ("::ffff:192.0.2.7", True),
    ],
)
def test_loopback_is_what_no_other_machine_reaches(address: str, is_open: bool) -> None:
    assert Listener("raylet", address, 1).is_open == is_open


def test_ports_of_a_process_and_of_those_it_started() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", LISTENING, "0.0.0.0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    port = int(child.stdout.readline())
    with socket.create_server(("127.0.0.1", 0)) as own:
        found = {(one.address, one.port): one for one in ray_listeners([psutil.Process()])}
        assert not found["127.0.0.1", own.getsockname()[1]].is_open
        assert found["0.0.0.0", port].is_open
    child.communicate()
    assert port not in {one.port for one in ray_listeners([psutil.Process()])}


class Titled:
    def __init__(self, *line: str) -> None:
        self._line = line

    def cmdline(self) -> list[str]:
        return list(self._line)

    def name(self) -> str:
        return "by the kernel"


@pytest.mark.parametrize(
    ("line", "is_ray", "name"),
    [
        (("/venv/site-packages/ray/core/src/ray/raylet/raylet", "--x=1"), True, "raylet"),
        (("/venv/site-packages/ray/core/src/ray/gcs/gcs_server",), True, "gcs_server"),
        (
            ("ray::ServeReplica:verifier:Verifier.initialize",),
            True,
            "ServeReplica:verifier:Verifier",
        ),
        (("VLLM::EngineCore",), True, "VLLM::EngineCore"),
        (
            ("/bin/python", "-u", "/v/site-packages/ray/dashboard/dashboard.py", "--host=x"),
            True,
            "dashboard.py",
        ),
        (("/bin/python", "train.py"), False, "train.py"),
        (("/usr/bin/sshd", "-D"), False, "sshd"),
        ((), False, "by the kernel"),
    ],
)
def test_rays_processes_are_known_by_their_titles(
    line: tuple[str, ...], is_ray: bool, name: str
) -> None:
    process = Titled(*line)
    assert listeners._is_ray(process) == is_ray
    assert listeners._name(process) == name


def test_the_doctor_names_what_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Listener("raylet", "127.0.0.1", 1), Listener("ServeReplica:a:A", "::", 2)]
    monkeypatch.setattr(listeners, "ray_listeners", lambda: found)
    (finding,) = doctor._open_ports()
    assert (finding.verdict, finding.value) == ("note", ":: 2 of ServeReplica:a:A")
    assert "docs/security.md" in finding.remedy
    del found[1]
    (finding,) = doctor._open_ports()
    assert (finding.verdict, finding.value) == ("ok", "1, all on loopback")
