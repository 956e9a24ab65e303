"""The patient caller: waits between attempts, one deadline over all of them, counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest

from alphagrpo.errors import DeadlineExceeded, ServiceUnavailable
from services import retry
from services.retry import CallPolicy, PatientCaller


class Retryable(Exception):
    pass


def failing(*errors: Exception | None) -> Callable[[], Awaitable[str]]:
    """Fails with each error in turn; None answers."""
    left = list(errors)

    async def send() -> str:
        error = left.pop(0)
        if error is not None:
            raise error
        return "answer"

    return send


def caller(**policy: float) -> PatientCaller:
    return PatientCaller("judge", CallPolicy(**policy), lambda e: isinstance(e, Retryable))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds the caller waits, without waiting; jitter is always its middle."""
    seconds: list[float] = []

    async def sleep(delay: float) -> None:
        seconds.append(delay)
        await asyncio.sleep(0)

    # The module's own name only: other threads of this process (Serve's, where it runs) sleep too.
    monkeypatch.setattr(retry, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    monkeypatch.setattr(retry, "random", SimpleNamespace(random=lambda: 0.5))
    return seconds


async def test_waits_double_up_to_the_longest(waits: list[float]) -> None:
    patient = caller(first_delay_s=1.0, max_delay_s=5.0)
    assert await patient.call(failing(*[Retryable()] * 5, None)) == "answer"
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


async def test_no_number_of_attempts_ends_a_call(waits: list[float]) -> None:
    patient = caller()
    assert await patient.call(failing(*[Retryable()] * 2000, None)) == "answer"
    assert patient.stats.retries == len(waits) == 2000
    assert waits[-1] == CallPolicy().max_delay_s


async def test_only_retryable_errors_are_tried_again(waits: list[float]) -> None:
    patient = caller()
    with pytest.raises(ValueError, match="no use"):
        await patient.call(failing(Retryable(), ValueError("no use"), None))
    assert len(waits) == 1
    assert (patient.stats.failed, patient.stats.retries, patient.stats.answered) == (1, 1, 0)


def test_jitter_spreads_callers_over_half_to_one_and_a_half() -> None:
    policy = CallPolicy(first_delay_s=2.0, max_delay_s=100.0)
    assert policy.delay_s(1, 0.0) == 1.0
    assert policy.delay_s(1, 0.5) == 2.0
    assert policy.delay_s(3, 0.0) == 4.0
    assert 2.9 < policy.delay_s(1, 0.999) < 3.0


async def test_the_jitter_is_sampled_anew_for_each_wait(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = iter([0.0, 0.9])
    monkeypatch.setattr(retry, "random", SimpleNamespace(random=lambda: next(samples)))
    await caller(first_delay_s=1.0).call(failing(Retryable(), Retryable(), None))
    assert waits == [0.5, pytest.approx(2.8)]


async def test_the_deadline_ends_the_attempts_and_the_last_cause_is_told() -> None:
    patient = caller(deadline_s=0.05, first_delay_s=0.02)
    words = r"judge must answer within 0\.05 s, \d attempts failed.*Retryable: gone"
    with pytest.raises(ServiceUnavailable, match=words) as caught:
        await patient.call(failing(*[Retryable("gone")] * 100))
    assert isinstance(caught.value.__cause__, Retryable)
    assert (patient.stats.late, patient.stats.failed, patient.stats.in_flight) == (1, 1, 0)


async def test_a_service_that_is_silent_is_late_not_unavailable() -> None:
    patient = caller(deadline_s=0.02)
    with pytest.raises(DeadlineExceeded, match=r"judge must answer within 0\.02 s"):
        await patient.call(asyncio.Event().wait)
    assert (patient.stats.late, patient.stats.failed, patient.stats.in_flight) == (1, 1, 0)


async def test_a_cancelled_call_gives_its_slot_back() -> None:
    patient = caller(max_concurrency=1)
    never = asyncio.Event()

    async def hang() -> None:
        await never.wait()

    task = asyncio.create_task(patient.call(hang))
    await asyncio.sleep(0)
    assert patient.stats.in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await patient.call(failing(None)) == "answer"
    assert (patient.stats.in_flight, patient.stats.failed) == (0, 1)


async def test_the_statistics_hold_the_mean_of_answered_calls_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 1.0, 10.0, 13.0, 20.0])
    monkeypatch.setattr(retry, "perf_counter", lambda: next(clock))
    patient = caller()
    assert patient.stats.as_dict()["mean_answer_s"] == 0.0
    await patient.call(failing(None))
    await patient.call(failing(None))
    with pytest.raises(ValueError, match="odd"):
        await patient.call(failing(ValueError("odd")))
    figures = patient.stats.as_dict()
    assert (figures["calls"], figures["answered"], figures["failed"]) == (3, 2, 1)
    assert (figures["last_answer_s"], figures["mean_answer_s"]) == (3.0, 2.0)
