"""Figures of a verifier's evaluation: agreement by name, calibration, and how good grades are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alphagrpo.shapes.grammar import Reading
from miniature.verifier.questions import predicate_of

BINS = 15
Floats = NDArray[np.float64]


def calibration_error(p: Floats, truth: NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error of the answer given: sum_b n_b/n · |accuracy_b − confidence_b|.

    The confidence is max(p, 1 − p); ``bins`` of equal width divide [0, 1].
    """
    confidence, right = np.maximum(p, 1 - p), (p > 0.5) == truth
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(right[index == b].mean() - confidence[index == b].mean()) * (index == b).mean()
        for b in range(bins)
        if (index == b).any()
    ]
    return float(sum(gaps))


def _ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[inverse], np.float64)


def rank_correlation(first: Floats, second: Floats) -> float | None:
    """Spearman's rho with ties; None where one side is constant."""
    a, b = _ranks(first), _ranks(second)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def grade_figures(
    name: str, grades: NDArray[np.int64], shares: Sequence[float]
) -> dict[str, float]:
    """Exact share, mean absolute error (of 10) and rank correlation of grades, by ``name``.

    ``shares`` are the true shares in [0, 1]; a true grade is ten times that, rounded.
    """
    true = np.array([round(10 * share) for share in shares])
    figures = {
        f"{name}_exact": float(np.mean(grades == true)),
        f"{name}_error": float(np.abs(grades - true).mean()),
    }
    rank = rank_correlation(grades.astype(np.float64), np.array(shares, np.float64))
    return figures if rank is None else figures | {f"{name}_rank": rank}


class Record:
    """Answers and truths by name."""

    def __init__(self) -> None:
        self.p: dict[str, list[float]] = defaultdict(list)
        self.truth: dict[str, list[bool]] = defaultdict(list)

    def add(
        self,
        family: str,
        answers: Sequence[Floats],
        texts: Sequence[Sequence[str]],
        readings: Sequence[Reading],
    ) -> None:
        """Answers to questions of the grammar; they count in all, by family and by type."""
        for row, questions, reading in zip(answers, texts, readings, strict=True):
            for p, text in zip(row, questions, strict=True):
                predicate = predicate_of(text)
                for name in ("overall", family, predicate.type):
                    self.p[name].append(float(p))
                    self.truth[name].append(predicate.holds(reading))

    def figures(self) -> dict[str, float]:
        """Agreement in all, by family and by type, and how far confidences can be believed."""
        p, truth = np.array(self.p["overall"]), np.array(self.truth["overall"])
        agreement = {
            name: float(np.mean((np.array(self.p[name]) > 0.5) == np.array(self.truth[name])))
            for name in self.p
        }
        return {
            **agreement,
            "calibration_error": calibration_error(p, truth),
            "brier": float(np.mean((p - truth) ** 2)),
            "mean_confidence": float(np.maximum(p, 1 - p).mean()),
            "yes_share": float(truth.mean()),
            "questions": float(len(p)),
        }
