"""A replica that can answer nothing any more ends its process, and everything it has started."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import psutil

from services.watching import watch


class Part:
    """Fails when it is told to."""

    def __init__(self) -> None:
        self.alarm = asyncio.Event()
        self.closed = False
        self.reason: str | None = None

    def failure(self) -> str | None:
        return self.reason


async def test_an_alarm_is_looked_at_at_once_and_told_once() -> None:
    part, reasons = Part(), list[str]()
    watching = asyncio.create_task(watch(part, reasons.append, look_s=60.0))
    await asyncio.sleep(0)
    part.alarm.set()
    await asyncio.sleep(0.01)
    assert (reasons, watching.done()) == ([], False), "an alarm without a failure means nothing"
    part.reason = "dead"
    part.alarm.set()
    await asyncio.wait_for(watching, timeout=5)
    assert reasons == ["dead"]


async def test_silence_is_found_without_an_alarm() -> None:
    part, reasons = Part(), list[str]()
    part.reason = "silent"
    await asyncio.wait_for(watch(part, reasons.append, look_s=0.01), timeout=5)
    assert reasons == ["silent"]


async def test_one_that_is_shut_down_on_purpose_is_left_alone() -> None:
    part, reasons = Part(), list[str]()
    watching = asyncio.create_task(watch(part, reasons.append, look_s=0.01))
    await asyncio.sleep(0.02)
    part.closed, part.reason = True, "dead"
    await asyncio.wait_for(watching, timeout=5)
    assert reasons == []


LEAVING = """
import os, signal, subprocess, sys
from services.watching import leave
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
os.kill(child.pid, signal.SIGSTOP)
print(child.pid, flush=True)
try:
    leave("its engine is dead")
finally:
    print("tidied", flush=True)
"""


def test_leaving_takes_a_stopped_child_along_and_waits_for_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "its engine is dead" in done.stderr
    (pid,) = done.stdout.split()
    assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == "zombie"
