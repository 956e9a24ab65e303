"""Who may ask a gateway, and how much of it: a token of its own, a share of places, a rate."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from alphagrpo.errors import ConfigError
from services.settings import GatewaySettings

ANYBODY = "anybody"
"""The one caller of a gateway without tokens."""
ONLY = "gateway"
"""The caller with the token that ``token_variable`` names."""
BURST_S = 10.0
"""A caller that was quiet may send as many requests at once as its rate allows in this time."""


@dataclass(slots=True, kw_only=True)
class Caller:
    """One token, what it may take, and what it has taken."""

    name: str
    token: bytes | None
    """None: whoever comes."""
    max_requests: int
    """At once."""
    per_minute: int | None = None
    """None: no limit."""
    clock: Callable[[], float] = monotonic
    active: int = 0
    _allowance: float | None = None
    """Requests it may send now; None before its first, when it may send a whole burst."""
    _counted_at: float = 0.0

    def is_full(self) -> bool:
        """Whether it has as many requests under way as it may."""
        return self.active >= self.max_requests

    def wait_s(self) -> float:
        """Seconds until its rate allows another request; where that is 0 it is counted."""
        if self.per_minute is None:
            return 0.0
        now, rate = self.clock(), self.per_minute / 60.0
        burst = max(1.0, BURST_S * rate)
        if self._allowance is None:
            self._allowance, self._counted_at = burst, now
        self._allowance = min(burst, self._allowance + (now - self._counted_at) * rate)
        self._counted_at = now
        if self._allowance < 1.0 - 1e-9:
            return (1.0 - self._allowance) / rate
        self._allowance -= 1.0
        return 0.0


class Callers:
    """All callers of one gateway replica."""

    def __init__(self, callers: Sequence[Caller]) -> None:
        self._callers = tuple(callers)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, which metrics show."""
        return tuple(caller.name for caller in self._callers)

    def who(self, authorization: bytes) -> Caller | None:
        """The caller whose token an ``Authorization`` header holds; None for nobody's."""
        scheme, _, token = authorization.partition(b" ")
        found = None
        # All are compared, each in constant time: answers do not tell how much of a guess was
        # right, nor whose token was nearly hit.
        for caller in self._callers:
            if caller.token is None:
                return caller
            if hmac.compare_digest(token.strip(), caller.token) and scheme.lower() == b"bearer":
                found = caller
        return found


def callers_of(settings: GatewaySettings) -> Callers:
    """The callers of a gateway's settings, their tokens read from the environment.

    A caller without a ``max_concurrency`` of its own has an equal share of what the others leave,
    so that one that sends all it can takes no place of another. Raises ConfigError for a token that
    is missing, of white space, or another caller's too.
    """
    most = settings.max_concurrency
    if settings.token_variable is not None:
        return Callers(
            [Caller(name=ONLY, token=read_token(settings.token_variable), max_requests=most)]
        )
    if not settings.callers:
        return Callers([Caller(name=ANYBODY, token=None, max_requests=most)])
    own = [caller.max_concurrency for caller in settings.callers]
    left = most - sum(number for number in own if number is not None)
    share = left // max(own.count(None), 1)
    callers = [
        Caller(
            name=one.name,
            token=read_token(one.token_variable),
            max_requests=one.max_concurrency or share,
            per_minute=one.requests_per_minute,
        )
        for one in settings.callers
    ]
    if len({caller.token for caller in callers}) < len(callers):
        raise ConfigError(
            "each caller of a gateway has a token of its own, two have the same; give them others"
        )
    return Callers(callers)


def read_token(variable: str) -> bytes:
    """The bearer token in an environment variable, without a line's end; ConfigError for none."""
    token = os.environ.get(variable, "")
    if not token:
        raise ConfigError(
            f"token_variable names an environment variable with the gateway's token, {variable!r} "
            "is not set; set it where the gateway runs"
        )
    if not token.strip() or len(token.split()) > 1 or not token.strip().isascii():
        raise ConfigError(
            f"a gateway's token is one word of ASCII without white space, {variable!r} holds "
            f"{len(token)} characters that are not; set another"
        )
    return token.strip().encode()
