"""What to watch about a group's losses, gathered without waiting for the device."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor

from alphagrpo.algorithms.objective import Objective
from alphagrpo.policy.contexts import ScoredThoughts

MEANS = ("clip_share", "mean_ratio", "kl", "capped_share", "mean_weight")
"""Fields of an :class:`Objective` that are means over samples; the last two may be absent."""


class Diagnostics:
    """Gathers over the losses of one group."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float | Tensor] = defaultdict(float)
        self._samples: defaultdict[str, float] = defaultdict(float)
        self._largest: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._entropy: list[tuple[Tensor, Tensor]] = []

    def add(self, part: str, objective: Objective, samples: float) -> None:
        """One loss of ``part``, whose figures are means over samples that count as ``samples``."""
        self._sums[f"{part}/loss"] += objective.loss.detach()
        self._samples[part] += samples
        for name in MEANS:
            if (mean := getattr(objective, name)) is not None:
                self._sums[f"{part}/{name}"] += samples * mean
        self._largest[part].append(objective.max_abs_log_ratio)

    def add_entropy(self, thoughts: ScoredThoughts, sample_weights: Tensor) -> None:
        """Entropy of the distributions that valid thoughts were sampled from."""
        counted = thoughts.mask & (sample_weights > 0)[:, None]
        self._entropy.append(((thoughts.entropy * counted).sum(), counted.sum()))

    def figures(self) -> dict[str, Any]:
        """As fields of :class:`alphagrpo.learner.notes.GroupNotes`; waits for the device."""
        return {
            "sums": {name: float(value) for name, value in self._sums.items()},
            "samples": dict(self._samples),
            "largest": {
                part: max(float(value) for value in values)
                for part, values in self._largest.items()
            },
            "entropy": sum(float(total) for total, _ in self._entropy),
            "tokens": sum(int(count) for _, count in self._entropy),
        }
