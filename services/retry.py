"""One patient call: a semaphore, a deadline over all attempts, exponential back-off with jitter."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, TypeVar

from pydantic import ValidationError

from alphagrpo.config.services import Patience, Seconds
from alphagrpo.errors import ConfigError, DeadlineExceeded, ServiceUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")


class CallPolicy(Patience):
    """How patient a client is, and how long it waits between two attempts."""

    first_delay_s: Seconds = 0.25
    """Mean wait before the second attempt; it doubles with each further one."""
    max_delay_s: Seconds = 8.0

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
                f"a client needs max_concurrency >= 1, max_attempts >= 1 and deadline_s > 0, and "
                f"nothing else: {issues}; correct them"
            ) from None

    def delay_s(self, attempt: int, jitter: float) -> float:
        """Seconds to wait after failed attempt ``attempt`` (from 1); ``jitter`` in [0, 1) spreads
        callers over 0.5 to 1.5 times the nominal delay, so that they do not come back together.
        """
        nominal = min(self.first_delay_s * 2.0 ** (attempt - 1), self.max_delay_s)
        return nominal * (0.5 + jitter)


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
class PatientCaller:
    """Runs calls under a :class:`CallPolicy`. Safe to use from one event loop after another."""

    service: str
    """Named in every error."""
    policy: CallPolicy
    is_retryable: Callable[[BaseException], bool]
    stats: CallStats = field(default_factory=CallStats)
    _slots: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    async def call(self, send: Callable[[], Awaitable[T]]) -> T:
        """The answer of ``send()``, asked again while it fails in a way worth a retry.

        ``send`` must be idempotent: an attempt whose replica died may have run.
        Raises ServiceUnavailable after the last attempt, DeadlineExceeded when time is up, and at
        once whatever is not worth a retry.
        """
        started = perf_counter()
        self.stats.calls += 1
        self.stats.in_flight += 1
        try:
            async with asyncio.timeout(self.policy.deadline_s) as limit, self._semaphore():
                answer = await self._attempts(send)
        except TimeoutError as error:
            self.stats.failed += 1
            if not limit.expired():
                raise
            self.stats.late += 1
            raise DeadlineExceeded(
                f"the {self.service} must answer within {self.policy.deadline_s:g} s, retries and "
                "waiting included, and did not; raise services.deadline_s or add replicas"
            ) from error
        except BaseException:
            self.stats.failed += 1
            raise
        finally:
            self.stats.in_flight -= 1
        self.stats.answered += 1
        self.stats.last_answer_s = perf_counter() - started
        self.stats.answer_s += self.stats.last_answer_s
        return answer

    async def _attempts(self, send: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(1, self.policy.max_attempts + 1):
            try:
                return await send()
            except Exception as error:
                if not self.is_retryable(error):
                    raise
                if attempt == self.policy.max_attempts:
                    raise ServiceUnavailable(
                        f"the {self.service} must answer within {attempt} attempts, the last "
                        f"failed with {type(error).__name__}: {error}; see the service's log and "
                        "that its application is running (serve status)"
                    ) from error
                log.info("%s attempt %d failed: %r", self.service, attempt, error)
            self.stats.retries += 1
            await asyncio.sleep(self.policy.delay_s(attempt, random.random()))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _semaphore(self) -> asyncio.Semaphore:
        """This event loop's slots; a semaphore belongs to the loop that first waits on it."""
        loop = asyncio.get_running_loop()
        if self._slots is None or self._slots[0] is not loop:
            self._slots = (loop, asyncio.Semaphore(self.policy.max_concurrency))
        return self._slots[1]
