"""Signals to this very process: what is finished, what is abandoned, what is only remembered."""

from __future__ import annotations

import os
import signal
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from time import monotonic

import pytest

from alphagrpo.cli import doctor, stopping
from alphagrpo.cli.main import main
from alphagrpo.cli.stopping import Stopped, StopSwitch

FOREVER_S = 20.0
"""How long a test waits for what should not be waited for."""


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def is_stopped(block: AbstractContextManager[None], *work: Callable[[], object]) -> bool:
    """Whether the block was abandoned, at the last piece of its work."""
    done = 0
    try:
        with block:
            for piece in work:
                piece()
                done += 1
    except Stopped:
        return done == max(len(work) - 1, 0)
    return False


@pytest.fixture
def switch() -> Iterator[StopSwitch]:
    made = StopSwitch(grace_s=FOREVER_S)
    with made.armed():
        yield made


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two signals at once are two."""
    monkeypatch.setattr(stopping, "ONE_SIGNAL_S", 0.0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_exit_code_is_the_first_signals(switch: StopSwitch, number: int, code: int) -> None:
    assert switch.exit_code == 0
    assert (switch.pulled, switch.reason) == (False, "")
    send(number)
    send(signal.SIGINT if number == signal.SIGTERM else signal.SIGTERM)
    assert switch.exit_code == code
    assert switch.reason == signal.Signals(number).name


def test_handlers_are_those_of_before(apart: None) -> None:
    # A background job of a shell ignores SIGINT from its start: compare with what was there.
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    threads = threading.active_count()
    with StopSwitch().armed(), pytest.raises(Stopped):
        raise Stopped
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    assert threading.active_count() == threads


def test_what_is_abandonable_is_abandoned_at_once(switch: StopSwitch) -> None:
    assert is_stopped(switch.abandonable(), lambda: send(signal.SIGINT))


def test_a_signal_that_came_before_abandons_too(switch: StopSwitch) -> None:
    send()
    assert is_stopped(switch.abandonable())


def test_a_step_ends_after_one_signal(switch: StopSwitch) -> None:
    with switch.step(expected_s=0.0):
        send()
        ended = True
    assert ended
    assert switch.pulled


def test_signals_in_quick_succession_are_one(switch: StopSwitch) -> None:
    with switch.step():
        for _ in range(3):
            send()
            time.sleep(0.01)
        ended = True
    assert ended


def test_another_signal_abandons_the_step(switch: StopSwitch, apart: None) -> None:
    assert is_stopped(switch.step(), send, send)


def test_a_step_that_would_end_after_the_grace_is_abandoned_at_once() -> None:
    switch, begun = StopSwitch(grace_s=5.0), monotonic()
    with switch.armed():
        assert is_stopped(switch.step(expected_s=60.0), send)
    assert monotonic() - begun < 5.0


def test_the_checkpoint_counts_too() -> None:
    switch = StopSwitch(grace_s=5.0)
    with switch.armed():
        assert is_stopped(switch.step(expected_s=4.0, reserve_s=4.0), send)


def test_a_step_that_is_nearly_over_ends() -> None:
    """What is compared with the grace is what is left of the step, not all of it."""
    switch = StopSwitch(grace_s=0.9)
    with switch.armed(), switch.step(expected_s=1.0):
        time.sleep(0.5)
        send()
        ended = True
    assert ended


def test_a_step_of_unknown_length_is_abandoned_when_the_grace_ends() -> None:
    """Also where the main thread waits for a lock, as it does for the mesh's thread."""
    switch, begun = StopSwitch(grace_s=1.0), monotonic()
    with switch.armed():
        assert is_stopped(
            switch.step(reserve_s=0.7), send, lambda: threading.Event().wait(FOREVER_S)
        )
    assert 0.25 <= monotonic() - begun < FOREVER_S / 2
    assert 0 < switch.left_s <= 0.75, "the reserve is left"


def test_no_checkpoint_begins_after_the_grace(switch: StopSwitch) -> None:
    switch.grace_s = 0.0
    send()
    assert is_stopped(switch.step())


def test_elsewhere_signals_are_remembered_until_the_grace_is_over(apart: None) -> None:
    switch = StopSwitch(grace_s=0.2)
    with switch.armed():
        send()
        send()
        time.sleep(0.3)
        with pytest.raises(Stopped):
            send()


def test_after_an_abandoned_step_nothing_is_interrupted(switch: StopSwitch, apart: None) -> None:
    """What cleans up runs inside the block still, or right after it."""
    cleaned = []

    def work() -> None:
        try:
            send()
            send()
        finally:
            send()
            cleaned.append("up")

    assert is_stopped(switch.step(), work)
    assert cleaned == ["up"]


def test_the_alarm_of_one_step_does_not_end_the_next() -> None:
    switch = StopSwitch(grace_s=0.5)
    with switch.armed():
        with switch.step(reserve_s=0.2):
            send()
        with switch.step():
            time.sleep(0.4)
            ended = True
    assert ended


def test_a_step_that_goes_on_is_told_with_its_time(apart: None) -> None:
    told, heard = [], threading.Event()

    def tell(text: str) -> None:
        told.append(text)
        heard.set()
        raise OSError("the terminal is gone")

    switch = StopSwitch(grace_s=7.0, tell=tell)
    with switch.armed():
        assert is_stopped(switch.step(), send, lambda: heard.wait(FOREVER_S), send)
    assert told == ["SIGTERM: the work in hand may end within 7 s"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_told_to_end_cleans_up_first(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def run(_: Namespace) -> int:
        try:
            send(number)
        finally:
            if number == signal.SIGTERM:
                send(number)  # `timeout` sends two
            cleaned.append("up")
        return 0

    before = signal.getsignal(signal.SIGTERM)
    interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(doctor, "run", run)
    try:
        assert main(["doctor"]) == code
    finally:
        signal.signal(signal.SIGINT, interrupts)
    assert cleaned == ["up"]
    assert signal.getsignal(signal.SIGTERM) is before
    assert "Traceback" not in capsys.readouterr().err
