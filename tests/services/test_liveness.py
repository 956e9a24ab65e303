"""What hangs without dying: output that is owed and does not come."""

from __future__ import annotations

from services.liveness import PROBE_S, STALL_S, Liveness


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def after(clock: Clock, liveness: Liveness, seconds: int) -> float:
    """Seconds of silence that the last of many looks finds."""
    for _ in range(seconds):
        clock.now += 1.0
        silent_s = liveness.silent_s()
    return silent_s


def test_a_busy_one_is_silent_from_its_last_output_on() -> None:
    clock = Clock()
    liveness = Liveness(clock)
    with liveness.requests(), liveness.requests():
        assert after(clock, liveness, 30) == 30
        liveness.heard()
        assert after(clock, liveness, 20) == 20
    with liveness.requests():
        liveness.heard()
    assert after(clock, liveness, 50) == 0


def test_impatient_callers_do_not_hide_a_silence() -> None:
    clock = Clock()
    liveness = Liveness(clock)
    for _ in range(6):
        with liveness.requests():
            silent_s = after(clock, liveness, 10)
    assert silent_s == 60


def test_an_idle_one_is_probed_and_the_answer_settles_it() -> None:
    clock = Clock()
    liveness = Liveness(clock)
    with liveness.requests():
        assert after(clock, liveness, 5) == 5
    assert not liveness.probe_due
    after(clock, liveness, int(PROBE_S))
    assert liveness.probe_due
    with liveness.requests():
        assert not liveness.probe_due
        liveness.heard()
    assert liveness.silent_s() == 0
    assert not liveness.probe_due


def test_a_watcher_that_was_stopped_itself_accuses_nobody() -> None:
    clock = Clock()
    liveness = Liveness(clock)
    with liveness.requests():
        liveness.silent_s()
        clock.now += 100 * STALL_S
        assert liveness.silent_s() == 0
        assert after(clock, liveness, 7) == 7


def test_of_a_batch_what_is_answered_is_owed_nothing_more() -> None:
    clock = Clock()
    liveness = Liveness(clock)
    with liveness.requests(3) as answered:
        assert after(clock, liveness, 30) == 30
        answered()
        answered()
        assert after(clock, liveness, 20) == 20, "one is left"
        answered()
        assert after(clock, liveness, 50) == 0
    assert after(clock, liveness, int(PROBE_S)) == 0
    assert liveness.probe_due
    with liveness.requests(2) as answered:
        answered()
    assert not liveness.probe_due
    after(clock, liveness, int(PROBE_S) + 1)
    assert liveness.probe_due, "nothing is in hand after a batch that was given up"
