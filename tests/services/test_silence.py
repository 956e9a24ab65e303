"""Whom calls wait for: said once for all of them, seldom, and not when all is well."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from services import silence
from services.silence import SilenceTeller


class FakeLoop:
    """Its time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 50.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, call: Callable[..., None], *args: Any) -> Any:
        timer = (self.now + delay_s, lambda: call(*args))
        self.timers.append(timer)
        return SimpleNamespace(cancel=lambda: timer in self.timers and self.timers.remove(timer))

    def pass_s(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            for timer in [timer for timer in self.timers if timer[0] <= self.now]:
                self.timers.remove(timer)
                timer[1]()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> FakeLoop:
    loop = FakeLoop()
    monkeypatch.setattr(silence, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    return loop


def test_many_silent_calls_are_one_line_then_at_doubling_intervals(loop: FakeLoop) -> None:
    said: list[tuple[float, str]] = []
    teller = SilenceTeller("judge", 300.0, lambda line: said.append((loop.now - 50.0, line)))
    with teller.waiting(), teller.waiting():
        loop.pass_s(5)
        teller.failed(OSError("gone\nwith a trace"))
        loop.pass_s(94)
    loop.pass_s(100)
    assert [at for at, _ in said] == [10.0, 20.0, 40.0, 80.0], "and none when nobody waits"
    assert said[1][1] == (
        "waiting for the judge: 2 calls, none answered for 20 s, the last attempt failed with "
        "OSError: gone; each is asked again until its deadline of 300 s"
    )


def test_answers_keep_it_quiet_and_end_a_silence(loop: FakeLoop) -> None:
    said: list[str] = []
    teller = SilenceTeller("judge", 300.0, said.append)
    with teller.waiting():
        for _ in range(5):
            loop.pass_s(9)
            teller.heard()
        assert said == []
        loop.pass_s(12)
        teller.heard()
        assert said[1:] == ["the judge answers again, after 12 s"]
        loop.pass_s(9)
    with teller.waiting():
        teller.heard()
    assert len(said) == 2
    assert loop.timers == []
