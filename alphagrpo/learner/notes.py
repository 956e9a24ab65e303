"""What there is to watch about an update, as plain numbers that ranks send one another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from alphagrpo.config import RunConfig
from alphagrpo.errors import ParityError

PARTS = ("text", "image")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupNotes:
    """Of one group that was replayed."""

    place: int
    """In its step."""
    turns: tuple[tuple[str, int], ...]
    """Prompt and visit of what was replayed."""
    policy_version: int
    """Which sampled it."""
    rewards: tuple[float, ...]
    """Of the samples that are trained on."""
    advantages: tuple[float, ...]
    """Of the same."""
    sums: Mapping[str, float] = field(default_factory=dict)
    """``part/figure``: losses summed over samples, other figures weighted by them."""
    samples: Mapping[str, float] = field(default_factory=dict)
    """By how many samples a part's figures are weighted."""
    largest: Mapping[str, float] = field(default_factory=dict)
    """Largest |log ratio| of a part, in the form that is clipped."""
    entropy: float = 0.0
    """Summed over :attr:`tokens`, nats."""
    tokens: int = 0
    """Sampled tokens of the samples that are trained on."""
    seconds: float = 0.0
    """That replaying it took."""


class StepNotes:
    """The notes of all groups of a step, put together in the order of their places."""

    def __init__(self, notes: Iterable[GroupNotes]) -> None:
        self._notes = sorted(notes, key=lambda group: group.place)

    def __bool__(self) -> bool:
        return bool(self._notes)

    @property
    def teaches(self) -> bool:
        """Whether any advantage is other than zero."""
        return any(value for group in self._notes for value in group.advantages)

    @property
    def visits(self) -> dict[str, int]:
        """The last visit of each prompt of the step."""
        visits: dict[str, int] = {}
        for group in self._notes:
            for prompt, visit in group.turns:
                visits[prompt] = max(visit, visits.get(prompt, -1))
        return visits

    @property
    def oldest_version(self) -> int:
        """Of the policies that sampled the groups."""
        return min(group.policy_version for group in self._notes)

    def largest(self, part: str) -> float:
        """Largest |log ratio| of a part; 0 if it was not trained."""
        return max((group.largest.get(part, 0.0) for group in self._notes), default=0.0)

    def check_parity(self, config: RunConfig) -> dict[str, float]:
        """``parity/*`` of a first step.

        Before it the policy is the one that sampled, so that every |log ratio| is an error of
        computation (method: section 1.2, "On-policy exactness").

        Raises:
            ParityError: where replay and rollout differ by more than a share of the clip range.
        """
        share, algorithm = config.training.parity_limit_share, config.algorithm
        clips = {
            "text": min(algorithm.text.clip_low, algorithm.text.clip_high),
            "image": algorithm.image.clip,
        }
        for part, clip in clips.items():
            largest = self.largest(part)
            if largest > share * clip:
                raise ParityError(
                    f"before the first step |log ratio| must be at most {share:g} of the clip "
                    f"range, {share * clip:.1e}; the {part} part has {largest:.1e}. Rollout and "
                    "replay compute different numbers: give both the same dtype, device, "
                    "attention kernel and rollout.threads, or raise training.parity_limit_share "
                    "if you accept the drift"
                )
        return {f"parity/{part}_max_abs_log_ratio": self.largest(part) for part in clips}

    def metrics(self, denominator: float) -> dict[str, float]:
        """``area/name`` to value; losses are divided by ``denominator`` samples."""
        rewards = [value for group in self._notes for value in group.rewards]
        advantages = [value for group in self._notes for value in group.advantages]
        metrics = {
            "advantage/abs_mean": statistics.fmean(map(abs, advantages)),
            "advantage/max": max(map(abs, advantages)),
            "advantage/zero_share": statistics.fmean(value == 0 for value in advantages),
            "advantage/reward_std": statistics.pstdev(rewards),
        }
        for name in dict.fromkeys(name for group in self._notes for name in group.sums):
            part, _, figure = name.partition("/")
            total = math.fsum(group.sums.get(name, 0.0) for group in self._notes)
            divisor = denominator if figure == "loss" else self._samples(part)
            metrics[name] = total / divisor if divisor else 0.0
        for part in PARTS:
            if self._samples(part):
                metrics[f"{part}/max_abs_log_ratio"] = self.largest(part)
        if tokens := sum(group.tokens for group in self._notes):
            metrics["text/entropy"] = math.fsum(g.entropy for g in self._notes) / tokens
            metrics["text/tokens_per_sample"] = tokens / len(rewards)
        return metrics

    def _samples(self, part: str) -> float:
        return math.fsum(group.samples.get(part, 0.0) for group in self._notes)
