"""The held-out curve of a run: every point of it is of the same prompts.

Between the evaluations before and after, which are of all held-out prompts, a run probes some of
them. The curve is of those: its first and last point are the figures of the probe's prompts, taken
from the lines of the two evaluations. Where nothing was probed both points are of all prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alphagrpo.eval.figures import SortFigures, heldout_key, share_all_right, summarise
from alphagrpo.eval.probe import PROMPT_SET
from alphagrpo.types import SORTS, Sort

if TYPE_CHECKING:
    from alphagrpo.eval.lines import HeldOutLine, Measure
    from alphagrpo.record.folder import RunFolder
    from alphagrpo.record.summary import Metrics

MAIN_MEASURES: tuple[Measure, ...] = ("all_right", "dvreward")
"""A run's main figure is the first of these that its judges can tell."""
Lines = Sequence["HeldOutLine"]
Point = tuple[float, float]
"""(step, figure)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutCurve:
    """One held-out figure over the steps of a run."""

    measure: Measure = "all_right"
    points: Mapping[Sort, tuple[Point, ...]] = field(default_factory=dict)
    """By sort, in order of steps; a sort without a point has no key."""
    num_prompts: Mapping[Sort, int] = field(default_factory=dict)
    """Prompts of a sort behind every one of its points."""
    num_heldout: Mapping[Sort, int] = field(default_factory=dict)
    """Prompts of a sort in the evaluations before and after."""

    @property
    def newest_share(self) -> float | None:
        """Share of the prompts that were all right when they were last looked at."""
        if self.measure != "all_right":
            return None
        return share_all_right(
            {
                sort: SortFigures(n=self.num_prompts[sort], all_right=points[-1][1])
                for sort, points in self.points.items()
                if self.num_prompts.get(sort)
            }
        )


def heldout_curve(
    metrics: Metrics, before: Lines, after: Lines, probed: frozenset[str]
) -> HeldOutCurve:
    """The curve as far as a run has come; ``probed`` are the ids of :func:`probed_ids`.

    Probes of other prompts than the newest one's, made before a run was resumed with other
    settings, are left out, and so is an evaluation that lacks some of the probe's prompts.
    """
    sorts = {line.id: line.sort for line in (*before, *after)}
    probes = [line for line in metrics if _is_probe(line)]
    probes = [line for line in probes if line.get(PROMPT_SET) == probes[-1].get(PROMPT_SET)]
    ids = probed & sorts.keys() if probes else sorts.keys()
    num_prompts = Counter(sorts[name] for name in ids)
    last = float(metrics[-1]["step"]) if metrics else 0.0
    ends = [
        (step, summarise([line for line in lines if line.id in ids]))
        for step, lines in ((0.0, before), (last, after))
    ]
    measure = _main_measure(before or after)
    points: dict[Sort, tuple[Point, ...]] = {}
    for sort in SORTS:
        by_step = {
            float(line["step"]): float(line[key])
            for key in [heldout_key(sort, measure)]
            for line in probes
            if line.get(key) is not None
        }
        for step, figures in ends:
            of_sort = figures.get(sort)
            value = getattr(of_sort, measure) if of_sort else None
            if of_sort and value is not None and of_sort.n == num_prompts[sort]:
                by_step[step] = value
        if by_step:
            points[sort] = tuple(sorted(by_step.items()))
    return HeldOutCurve(
        measure=measure,
        points=points,
        num_prompts=num_prompts,
        num_heldout=Counter(line.sort for line in before or after),
    )


def probed_ids(folder: RunFolder, lines: Lines) -> frozenset[str]:
    """Ids of the prompts that a run probes; ``lines`` are those of one of its evaluations.

    Runs of earlier versions, which left no lines of their probes, probed the first prompts of each
    sort.
    """
    if probe := folder.evaluation("probe"):
        return frozenset(line.id for line in probe)
    num_probe = (folder.config().get("evaluation") or {}).get("num_probe", 32)
    of_sort = {sort: [line.id for line in lines if line.sort == sort] for sort in SORTS}
    return frozenset(name for names in of_sort.values() for name in names[:num_probe])


def _is_probe(metrics: Mapping[str, Any]) -> bool:
    return any(
        metrics.get(heldout_key(sort, measure)) is not None
        for sort in SORTS
        for measure in MAIN_MEASURES
    )


def _main_measure(lines: Lines) -> Measure:
    opinions = [line.opinion for line in lines]
    known = (m for m in MAIN_MEASURES if any(getattr(o, m) is not None for o in opinions))
    return next(known, MAIN_MEASURES[0])
