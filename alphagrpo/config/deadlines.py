"""How long a run waits for an answer of one of its own processes."""

from __future__ import annotations

from pydantic import Field

from alphagrpo.config.sampling import Section


class DeadlineConfig(Section):
    """Deadlines are learnt: a call may take ``factor`` times the slowest of its kind so far.

    A process that has missed one is replaced like one that died. Long before that, ten seconds
    after the slowest so far and then at doubling intervals, the run says whom it waits for, and
    asks that process whether it lives: one that does not say so within ``ping_s`` is replaced too.
    """

    first_s: float = Field(1800.0, gt=0)
    """Of the first call of a kind, of which nothing is known: kernels are compiled in it."""
    factor: float = Field(10.0, ge=2)
    least_s: float = Field(120.0, gt=0)
    """No deadline is shorter, however quick the calls were."""
    ping_s: float = Field(60.0, gt=0)
    """Seconds to say that one lives, which takes no computing; also what the weight registry has
    for any answer."""
