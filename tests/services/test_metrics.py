"""What replicas count: work in hand, outcomes, and which weights drew."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from alphagrpo.errors import NoQuestions
from services import metrics


class Recorded:
    """A metric of Ray's that keeps what it was told."""

    kept: ClassVar[dict[str, Recorded]] = {}

    def __init__(self, name: str, description: str, **options: Any) -> None:
        self.values: list[Any] = []
        self.kept[name] = self

    def set(self, value: float) -> None:
        self.values.append(value)

    observe = set

    def inc(self, tags: dict[str, str] | float | None = None) -> None:
        self.values.append(tags)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorded]:
    Recorded.kept = {}
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, Recorded)
    return Recorded.kept


def values(recorded: dict[str, Recorded], name: str) -> list[Any]:
    return recorded[f"alphagrpo_{name}"].values


def test_questions_are_pending_while_their_picture_is_in_hand(recorded) -> None:
    verifier = metrics.VerifierMetrics()
    with verifier.picture(5):
        with verifier.picture(3):
            assert verifier.pending == 8
        assert verifier.pending == 5
    assert verifier.pending == 0
    assert values(recorded, "verifier_pending_questions") == [5, 8, 5, 0]
    assert values(recorded, "verifier_questions_total") == [3, 5]
    assert len(values(recorded, "verifier_latency_seconds")) == 2
    assert values(recorded, "verifier_failures_total") == []


def test_a_failed_picture_is_no_answer_and_leaves_nothing_pending(recorded) -> None:
    verifier = metrics.VerifierMetrics()
    with pytest.raises(ValueError, match="odd"), verifier.picture(5):
        raise ValueError("odd")
    assert verifier.pending == 0
    assert values(recorded, "verifier_failures_total") == [{"reason": "ValueError"}]
    assert values(recorded, "verifier_questions_total") == []
    assert values(recorded, "verifier_latency_seconds") == []


def test_every_answer_goes_into_the_histogram(recorded) -> None:
    metrics.VerifierMetrics().answers(iter([0.25, 0.75]))
    assert values(recorded, "verifier_p_yes_ratio") == [0.25, 0.75]


def test_requests_end_ok_or_by_their_error(recorded) -> None:
    decomposer = metrics.DecomposerMetrics()
    with decomposer.request():
        assert decomposer.pending == 1
    with pytest.raises(NoQuestions), decomposer.request():
        raise NoQuestions("none")
    assert decomposer.pending == 0
    outcomes = [tags["outcome"] for tags in values(recorded, "decomposer_prompts_total")]
    assert outcomes == ["ok", "NoQuestions"]
    assert len(values(recorded, "decomposer_latency_seconds")) == 1


def test_pictures_and_refinements_are_told_apart(recorded) -> None:
    generator = metrics.GeneratorMetrics()
    generator.picture(7, 0)
    generator.picture(8, 2)
    assert len(values(recorded, "generator_pictures_total")) == 2
    assert len(values(recorded, "generator_refinements_total")) == 1
    assert values(recorded, "generator_weights_version") == [7, 8]
