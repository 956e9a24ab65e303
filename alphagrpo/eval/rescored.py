"""What a new score of the same samples would have changed: ranking and advantages."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from alphagrpo.algorithms.advantages import Rewards, group_advantages
from alphagrpo.eval.ranks import RankAgreement, rank_agreement
from alphagrpo.options import StdMode

if TYPE_CHECKING:
    from alphagrpo.config.algorithm import AlgorithmConfig

NUM_CHANGED = 5
"""Groups that are named as those whose ranking changed most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedGroup:
    """The rewards of one group, old and new: only samples that have both."""

    name: str
    task: str
    prompt: str
    old: Sequence[float]
    new: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageChange:
    """Advantages of the same samples by old and new rewards."""

    mean_change: float
    """Mean |new - old|."""
    mean_size: float
    """Mean |old|, to compare it with."""
    sign_changed: float
    """Share of samples whose advantage was above 0 and is below, or the other way round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedGroup:
    """A group whose ranking changed."""

    name: str
    prompt: str
    kendall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoreFigures:
    """All groups that could be compared. None: there was nothing to compare."""

    groups: int
    """With at least two samples that have both rewards."""
    samples: int
    """In these."""
    kendall: float | None
    """Mean of tau-b over the groups that both sides rank."""
    spearman: float | None
    """Mean of rho likewise."""
    ranked_groups: int
    """Groups that both sides rank."""
    pairs: int
    """Pairs inside groups that the run told apart."""
    flipped: float | None
    """Share of these that are the other way round now."""
    tied: float | None
    """Share of these that are not told apart now."""
    advantages: Mapping[StdMode, AdvantageChange]
    """By whose spread advantages are divided by."""
    most_changed: Sequence[ChangedGroup]


@dataclass(slots=True)
class RescoreComparison:
    """Takes in groups step by step, and holds sums only."""

    algorithm: AlgorithmConfig
    _agreements: Counter[str] = field(default_factory=Counter)
    _sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _changed: list[ChangedGroup] = field(default_factory=list)

    def add(self, groups: Sequence[PairedGroup]) -> None:
        """The groups of one step, in prompt order; those with fewer than two samples are left
        out.
        """
        groups = [group for group in groups if len(group.old) > 1]
        for group in groups:
            self._agreements["groups"] += 1
            self._agreements["samples"] += len(group.old)
            self._add_agreement(group, rank_agreement(group.old, group.new))
        for std in get_args(StdMode):
            self._add_advantages(std, groups)

    def _add_agreement(self, group: PairedGroup, agreement: RankAgreement) -> None:
        for key in ("pairs", "flipped", "tied"):
            self._agreements[key] += getattr(agreement, key)
        if agreement.kendall is None or agreement.spearman is None:
            return
        self._agreements["ranked"] += 1
        self._sums["kendall"] += agreement.kendall
        self._sums["spearman"] += agreement.spearman
        self._changed.append(
            ChangedGroup(name=group.name, prompt=group.prompt, kendall=agreement.kendall)
        )
        self._changed = sorted(self._changed, key=lambda one: one.kendall)[:NUM_CHANGED]

    def _add_advantages(self, std: StdMode, groups: Sequence[PairedGroup]) -> None:
        for block in self._blocks(std, groups):
            old, new = (
                self._advantages([getattr(group, side) for group in block], std)
                for side in ("old", "new")
            )
            for before, after in zip(old, new, strict=True):
                self._sums[f"{std} change"] += abs(after - before)
                self._sums[f"{std} size"] += abs(before)
                self._sums[f"{std} signs"] += before * after < 0

    def _blocks(self, std: StdMode, groups: Sequence[PairedGroup]) -> list[list[PairedGroup]]:
        """What a spread is taken over, as in training (:mod:`alphagrpo.step.blocks`)."""
        size = 1 if std == "group" else self.algorithm.advantage_prompts or max(1, len(groups))
        by_task: dict[str, list[PairedGroup]] = {}
        for group in groups:
            by_task.setdefault(group.task, []).append(group)
        return [
            members[start : start + size]
            for members in by_task.values()
            for start in range(0, len(members), size)
        ]

    def _advantages(self, rewards: Sequence[Rewards], std: StdMode) -> list[float]:
        epsilon = self.algorithm.advantage_epsilon
        by_group = group_advantages(rewards, std=std, epsilon=epsilon)
        return [value for group in by_group for value in group]

    def figures(self) -> RescoreFigures:
        """Of all groups so far."""
        counts, sums = self._agreements, self._sums
        samples, pairs, ranked = counts["samples"], counts["pairs"], counts["ranked"]
        return RescoreFigures(
            groups=counts["groups"],
            samples=samples,
            kendall=sums["kendall"] / ranked if ranked else None,
            spearman=sums["spearman"] / ranked if ranked else None,
            ranked_groups=ranked,
            pairs=pairs,
            flipped=counts["flipped"] / pairs if pairs else None,
            tied=counts["tied"] / pairs if pairs else None,
            advantages={
                std: AdvantageChange(
                    mean_change=sums[f"{std} change"] / samples,
                    mean_size=sums[f"{std} size"] / samples,
                    sign_changed=sums[f"{std} signs"] / samples,
                )
                for std in get_args(StdMode)
                if samples
            },
            most_changed=tuple(self._changed),
        )
