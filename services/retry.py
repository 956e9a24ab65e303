"""One patient call: a semaphore, a deadline over all attempts, exponential back-off with jitter.

The deadline alone ends it: a service that cannot be reached comes back in its own time, and a count
of attempts says nothing about how long that takes.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, TypeVar

from pydantic import ValidationError

from alphagrpo.config.retrying import PauseConfig
from alphagrpo.config.services import Patience, Seconds
from alphagrpo.errors import ConfigError, DeadlineExceeded, MeshError, ServiceUnavailable
from services.silence import SilenceTeller, brief

T = TypeVar("T")


class CallPolicy(Patience):
    """How patient a client is, and how long it waits between two attempts."""

    first_delay_s: Seconds = 0.25
    """Mean wait before the second attempt; it doubles with each further one."""
    max_delay_s: Seconds = 5.0

    @classmethod
    def of(cls, **patience: Any) -> CallPolicy:
        """A policy with some of :class:`Patience`'s settings; ConfigError for impossible ones."""
        try:
            return cls(**patience)
        except ValidationError as error:
            issues = "; ".join(
                f"{'.'.join(map(str, issue['loc']))}: {issue['msg']}, got {issue['input']!r}"
                for issue in error.errors()
            )
            raise ConfigError(
                f"a client needs max_concurrency >= 1 and deadline_s > 0, and nothing else: "
                f"{issues}; correct them"
            ) from None

    def delay_s(self, attempt: int, jitter: float) -> float:
        """Seconds to wait after failed attempt ``attempt`` (from 1); ``jitter`` in [0, 1) spreads
        callers over 0.5 to 1.5 times the nominal delay, so that they do not come back together.
        """
        pauses = PauseConfig(first_s=self.first_delay_s, most_s=self.max_delay_s)
        return pauses.seconds(attempt) * (0.5 + jitter)


@dataclass(slots=True)
class CallStats:
    """Running counts of one client, for metrics and the run's summary."""

    calls: int = 0
    answered: int = 0
    retries: int = 0
    failed: int = 0
    """Calls that ended in any error, late ones included."""
    late: int = 0
    """Calls that missed their deadline."""
    in_flight: int = 0
    """Calls asked and not yet answered, waiting ones included."""
    answer_s: float = 0.0
    """Sum over answered calls of seconds from asking to answer."""
    last_answer_s: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """A plain copy, with the mean latency of answered calls as ``mean_answer_s``."""
        return {**asdict(self), "mean_answer_s": self.answer_s / max(self.answered, 1)}


@dataclass(slots=True)
class _Tries:
    """The attempts of one call so far."""

    failed: int = 0
    last: Exception | None = None


@dataclass(slots=True)
class PatientCaller:
    """Runs calls under a :class:`CallPolicy`. Safe to use from one event loop after another."""

    service: str
    """Named in every error."""
    policy: CallPolicy
    is_retryable: Callable[[BaseException], bool]
    stats: CallStats = field(default_factory=CallStats)
    _slots: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
    _teller: SilenceTeller = field(init=False)

    def __post_init__(self) -> None:
        self._teller = SilenceTeller(self.service, self.policy.deadline_s)

    async def call(self, send: Callable[[], Awaitable[T]]) -> T:
        """The answer of ``send()``, asked again until the deadline while it fails in a way that
        may pass; whom it waits for is said now and then, for all calls of this caller together.

        ``send`` must be idempotent: an attempt whose replica died may have run.
        Raises when time is up ServiceUnavailable where attempts failed and DeadlineExceeded where
        none did, and at once whatever is not worth a retry.
        """
        started = perf_counter()
        self.stats.calls += 1
        self.stats.in_flight += 1
        tries = _Tries()
        try:
            with self._teller.waiting():
                async with asyncio.timeout(self.policy.deadline_s) as limit, self._semaphore():
                    answer = await self._attempts(send, tries)
                self._teller.heard()
        except TimeoutError as error:
            self.stats.failed += 1
            if not limit.expired():
                raise
            self.stats.late += 1
            raise self._too_late(tries) from (tries.last or error)
        except BaseException:
            self.stats.failed += 1
            raise
        finally:
            self.stats.in_flight -= 1
        self.stats.answered += 1
        self.stats.last_answer_s = perf_counter() - started
        self.stats.answer_s += self.stats.last_answer_s
        return answer

    async def _attempts(self, send: Callable[[], Awaitable[T]], tries: _Tries) -> T:
        for attempt in itertools.count(1):
            try:
                return await send()
            except Exception as error:
                if not self.is_retryable(error):
                    raise
                tries.failed, tries.last = attempt, error
            self._teller.failed(tries.last)
            self.stats.retries += 1
            await asyncio.sleep(self.policy.delay_s(attempt, random.random()))
        raise AssertionError("unreachable: attempts are made until the deadline")

    def _too_late(self, tries: _Tries) -> MeshError:
        limit = f"the {self.service} must answer within {self.policy.deadline_s:g} s"
        if tries.last is None:
            return DeadlineExceeded(
                f"{limit}, retries and waiting included, and did not; raise services.deadline_s or "
                "add replicas"
            )
        return ServiceUnavailable(
            f"{limit}, {tries.failed} attempts failed, the last with {brief(tries.last)}; see the "
            "service's log and that its application is running (serve status)"
        )

    def _semaphore(self) -> asyncio.Semaphore:
        """This event loop's slots; a semaphore belongs to the loop that first waits on it."""
        loop = asyncio.get_running_loop()
        if self._slots is None or self._slots[0] is not loop:
            self._slots = (loop, asyncio.Semaphore(self.policy.max_concurrency))
        return self._slots[1]
