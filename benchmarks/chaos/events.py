"""What is done to a run: which process or file, what happens to it, and when; a seed decides."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Action = Literal["kill", "stop", "delay", "terminate", "damage", "tear"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One thing that can go wrong."""

    action: Action
    """``kill``: SIGKILL. ``stop``: SIGSTOP, for good. ``delay``: SIGSTOP for a few seconds.
    ``terminate``: SIGTERM. ``damage``: bytes of the newest checkpoint are changed, and then the
    role dies that has to read it. ``tear``: the last line of the metrics is cut, as by a crash.
    """
    role: str
    """Of :mod:`benchmarks.chaos.processes`."""
    weight: int
    """How often, beside the others."""

    @property
    def name(self) -> str:
        """In the table: ``kill, runner``."""
        return f"{self.action}, {self.role}"


KINDS = (
    Kind("kill", "runner", 8),
    Kind("stop", "runner", 4),
    Kind("delay", "runner", 3),
    Kind("kill", "learner", 5),
    Kind("stop", "learner", 3),
    Kind("delay", "learner", 2),
    Kind("kill", "registry", 3),
    Kind("stop", "registry", 2),
    Kind("kill", "verifier engine", 3),
    Kind("delay", "verifier engine", 2),
    Kind("kill", "verifier replica", 2),
    Kind("kill", "decomposer engine", 1),
    Kind("kill", "decomposer replica", 1),
    Kind("kill", "driver", 3),
    Kind("terminate", "driver", 2),
    Kind("damage", "learner", 3),
    Kind("damage", "driver", 2),
    Kind("tear", "driver", 1),
)
"""Fifty in all: what dies often in life dies often here."""


@dataclass(frozen=True, slots=True)
class Event:
    """One of them, at a time of the run."""

    kind: Kind
    steps: int
    """So many after the last event was recovered from."""
    delay: float
    """And so many seconds after the last of these was written down."""
    choice: float
    """In [0, 1): which of several processes, which byte."""


def drawn_events(
    seed: int, count: int, most_steps: int, longest_delay_s: float, kinds: Sequence[Kind] = KINDS
) -> list[Event]:
    """``count`` events in an order that ``seed`` decides, each kind by its weight."""
    chance = random.Random(seed)
    every = [kind for kind in kinds for _ in range(kind.weight)]
    order: list[Kind] = []
    while len(order) < count:
        order += chance.sample(every, len(every))
    return [
        Event(
            kind=kind,
            steps=chance.randint(1, most_steps),
            delay=chance.uniform(0.0, longest_delay_s),
            choice=chance.random(),
        )
        for kind in order[:count]
    ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event."""

    event: Event
    recovery_s: float
    """From the event to the next step that was written down, without a usual step's seconds; of a
    process that was stopped to its replacement, if that was later.
    """
    resumed: bool
    """The command had ended, and was called again."""


def by_kind(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, Sequence[Outcome]]]:
    """Outcomes of each kind that came, in the order of :data:`KINDS`."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.event.kind.name, []).append(outcome)
    order = [kind.name for kind in KINDS]
    yield from sorted(found.items(), key=lambda item: order.index(item[0]))
