"""The figures of an evaluation, by sort of prompt; every mean is over what could be had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from alphagrpo.eval.lines import CHAINS, MEASURES, Chain, HeldOutLine, Measure, Refinement, known
from alphagrpo.eval.paired import PairedDifference, mean, paired_difference, share_interval
from alphagrpo.json_records import LEFT_OUT
from alphagrpo.types import SORTS, Sort

PROBED: tuple[Measure, ...] = ("all_right", "per_question", "dvreward")
"""Measures of the small evaluations during training that go into the step's metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinedFigures:
    """What one round made of a sort's pictures, in one chain. None: nobody could say."""

    n: int
    """Prompts."""
    per_question: float | None = None
    """This and the next four: means over the pictures held after the round, see
    :class:`SortFigures`.
    """
    all_right: float | None = None
    strict: float | None = None
    extra: float | None = None
    dvreward: float | None = None
    all_right_interval: tuple[float, float] | None = field(default=None, metadata=LEFT_OUT)
    """95 % interval of ``all_right``."""
    all_right_gain: PairedDifference | None = field(default=None, metadata=LEFT_OUT)
    """Of ``all_right``, to the first picture."""
    kept: float | None = None
    """Share of refinements that were kept."""
    mended: float | None = None
    """Of refinements of pictures that were not all right, the share that are."""
    broken: float | None = None
    """Of refinements of right pictures, the share that are not any more."""
    improved: float | None = None
    """Share of refinements whose share of right answers rose, kept or not."""
    harmed: float | None = None
    """Share of refinements whose share of right answers fell, kept or not."""
    named: float | None = None
    """Of reflections on pictures with a defect, the share that name one."""


RoundFigures = Mapping[str, Mapping[Chain, RefinedFigures]]
"""By ``round<i>``, from 1, and chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SortFigures:
    """The figures of one sort of prompt. None: nobody could say."""

    n: int
    """Prompts."""
    per_question: float | None = None
    """Mean share of the oracle's questions answered yes."""
    all_right: float | None = None
    """Share of pictures in which the oracle sees all that was asked for."""
    strict: float | None = None
    """The same, and nothing else is there."""
    extra: float | None = None
    """Share of pictures with more things than were asked for."""
    dvreward: float | None = None
    """Mean of the verifier's reward, over ``scored`` pictures."""
    scored: int | None = None
    all_right_interval: tuple[float, float] | None = field(default=None, metadata=LEFT_OUT)
    """95 % interval of ``all_right``."""
    refined: RoundFigures | None = field(default=None, metadata=LEFT_OUT)


Figures = Mapping[Sort, SortFigures]
Differences = Mapping[Sort, Mapping[Measure, PairedDifference]]


def summarise(lines: Sequence[HeldOutLine]) -> dict[Sort, SortFigures]:
    """Figures by sort, each over its own prompts; sorts without prompts are left out."""
    by_sort = {sort: [line for line in lines if line.sort == sort] for sort in SORTS}
    return {sort: _sort_figures(members) for sort, members in by_sort.items() if members}


def _sort_figures(lines: Sequence[HeldOutLine]) -> SortFigures:
    values = {measure: known((line.opinion for line in lines), measure) for measure in MEASURES}
    right = values["all_right"]
    return SortFigures(
        n=len(lines),
        **{measure: mean(numbers) for measure, numbers in values.items()},
        scored=len(values["dvreward"]),
        all_right_interval=share_interval(right) if right else None,
        refined=summarise_rounds(lines) or None,
    )


def differences(
    before: Sequence[HeldOutLine], after: Sequence[HeldOutLine]
) -> dict[Sort, dict[Measure, PairedDifference]]:
    """Paired difference (after - before) by sort and measure, over prompts known on both sides.

    Lines are paired by prompt id; their order does not matter.
    """
    earlier = {line.id: line for line in before}
    both = [(earlier[line.id], line) for line in after if line.id in earlier]
    changes: dict[Sort, dict[Measure, PairedDifference]] = {}
    for sort in SORTS:
        pairs = [(old.opinion, new.opinion) for old, new in both if new.sort == sort]
        for measure in MEASURES:
            if change := _difference(pairs, measure):
                changes.setdefault(sort, {})[measure] = change
    return changes


def _difference(
    pairs: Iterable[tuple[object, object]], measure: Measure
) -> PairedDifference | None:
    """Of a measure over pairs of records (before, after) that both have it; None without any."""
    values = ((getattr(old, measure), getattr(new, measure)) for old, new in pairs)
    numbers = [(float(a), float(b)) for a, b in values if a is not None and b is not None]
    return paired_difference(*zip(*numbers, strict=True)) if numbers else None


def summarise_rounds(lines: Sequence[HeldOutLine]) -> dict[str, dict[Chain, RefinedFigures]]:
    """Figures per ``round<i>`` and chain, for the rounds that every line has."""
    rounds = min((len(line.rounds) for line in lines), default=0)
    return {
        f"round{index + 1}": {chain: _chain_figures(lines, index, chain) for chain in CHAINS}
        for index in range(rounds)
    }


def _chain_figures(lines: Sequence[HeldOutLine], index: int, chain: Chain) -> RefinedFigures:
    refinements = [line.rounds[index][chain] for line in lines]
    held = [refinement.held for refinement in refinements]
    right = known(held, "all_right")
    firsts = [line.opinion for line in lines]
    return RefinedFigures(
        n=len(refinements),
        **{measure: mean(known(held, measure)) for measure in MEASURES},
        all_right_interval=share_interval(right) if right else None,
        all_right_gain=_difference(zip(firsts, held, strict=True), "all_right"),
        **_refinement_shares(refinements),
    )


def _refinement_shares(refinements: Sequence[Refinement]) -> dict[str, float | None]:
    """What the refinements of one round and chain did, kept or not."""
    judged = [r for r in refinements if r.before.all_right is not None]
    wrong = [r.tried.all_right for r in judged if not r.before.all_right]
    right = [r.tried.all_right for r in judged if r.before.all_right]
    return {
        "mended": mean([float(bool(is_right)) for is_right in wrong]),
        "broken": mean([float(not is_right) for is_right in right]),
        **{
            name: mean(known(refinements, name)) for name in ("kept", "improved", "harmed", "named")
        },
    }


def heldout_key(sort: Sort, measure: Measure) -> str:
    """The key of a probe's figure in a step's metrics."""
    return f"heldout/{sort}_{measure}"


def probe_metrics(figures: Figures) -> dict[str, float]:
    """A small evaluation's figures as metrics of the step after which it was made."""
    return {
        heldout_key(sort, measure): value
        for sort, of_sort in figures.items()
        for measure in PROBED
        if (value := getattr(of_sort, measure)) is not None
    }


def share_all_right(figures: Figures) -> float | None:
    """Share of all prompts, whatever their sort, with a picture that is all right."""
    shares = [(f.n, f.all_right) for f in figures.values() if f.all_right is not None]
    if not shares:
        return None
    return sum(n * share for n, share in shares) / sum(n for n, _ in shares)
