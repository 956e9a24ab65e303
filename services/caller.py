"""On whose behalf a call is made: the name of a run, which the metrics of the services show.

A client that belongs to a run sends its name with each call: over a Serve handle as the argument
``run``, over HTTP as a header, which the gateway passes on. A call without a name is answered the
same way.
"""

from __future__ import annotations

import re
from contextvars import ContextVar

HEADER = "X-AlphaGRPO-Run"
NOBODY = "none"
"""Tag of calls without a run's name."""
OTHERS = "other"
"""Tag of what is no run's name, and of runs past the most that are told apart."""
MOST_RUNS = 32
"""Runs one replica tells apart: each is a series of every metric, for as long as it lives."""

CALLER: ContextVar[str] = ContextVar("caller", default="")
"""The run behind the request that is being answered here; empty where nobody said."""

RUN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


class RunTags:
    """Tag values of runs, few enough to be tags whatever callers send."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def tag(self, run: str) -> str:
        """``run`` itself, :data:`NOBODY` or :data:`OTHERS`."""
        if not run:
            return NOBODY
        if run not in self._known:
            if len(self._known) >= MOST_RUNS or not RUN_NAME.fullmatch(run):
                return OTHERS
            self._known.add(run)
        return run
