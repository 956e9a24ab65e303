"""The stretch of the schedule that takes SDE steps and trains."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Steps ``start .. start + length - 1`` of the schedule.

    Example: ``list(Window(1, 3).steps) == [1, 2, 3]``
    """

    start: int
    length: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.length < 1:
            raise ValueError(
                f"an SDE window needs start >= 0 and length >= 1, got start {self.start}, "
                f"length {self.length}"
            )

    @property
    def stop(self) -> int:
        """First step after the window."""
        return self.start + self.length

    @property
    def steps(self) -> range:
        """The window's step indices, in order."""
        return range(self.start, self.stop)

    def __contains__(self, step: int) -> bool:
        return self.start <= step < self.stop

    def check(self, num_points: int) -> None:
        """Raise ValueError unless the window lies within a schedule of ``num_points`` points."""
        if self.stop > num_points - 1:
            raise ValueError(
                f"a schedule of {num_points} points has {num_points - 1} steps, the SDE window "
                f"ends at step {self.stop}; shorten the window or add points"
            )


def sample_window(length: int, allowed: tuple[int, int], seed: int) -> Window:
    """Sample where the window starts, uniformly, from a *group's* seed.

    All samples of a group share the window, so that they differ by their noise alone and their
    log-probabilities are of the same steps. The released code samples it per process, where members
    of one group may differ (method: section 2.3).

    Args:
        length: number of steps, >= 1.
        allowed: [lo, hi): every step of the window lies in this range of step indices.
        seed: the group's seed; the same seed gives the same window everywhere.

    Raises:
        ValueError: if no window of that length fits the range.
    """
    lo, hi = allowed
    if length < 1 or lo < 0 or hi - lo < length:
        raise ValueError(
            f"no SDE window of length {length} fits the steps [{lo}, {hi}); "
            "shorten the window or widen the range"
        )
    return Window(random.Random(seed).randint(lo, hi - length), length)
