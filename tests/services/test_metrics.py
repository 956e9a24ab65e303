"""What replicas count: work in hand, outcomes, who asked, and which weights drew."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from alphagrpo.errors import NoQuestions
from services import metrics
from services.autoscaling import PENDING
from services.caller import MOST_RUNS, NOBODY, OTHERS, RunTags


class Recorded:
    """A metric of Ray's that keeps what it was told, by its tags' values."""

    def __init__(self, kept: dict[str, Recorded], name: str, tag_keys: tuple[str, ...]) -> None:
        assert "run" in tag_keys
        self.tag_keys = tag_keys
        self.values: dict[tuple[str, ...], list[float]] = {}
        kept[name] = self

    def _record(self, value: float, tags: dict[str, str]) -> None:
        assert tuple(tags) == self.tag_keys
        self.values.setdefault(tuple(tags.values()), []).append(value)

    set = observe = _record

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        assert tags
        assert value > 0, "Ray refuses to count nothing"
        self._record(value, tags)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorded]:
    kept: dict[str, Recorded] = {}

    def plain(name: str, text: str, tag_keys: tuple[str, ...]) -> Recorded:
        assert text
        return Recorded(kept, name, tag_keys)

    def histogram(
        name: str, text: str, boundaries: Sequence[float], tag_keys: tuple[str, ...]
    ) -> Recorded:
        assert list(boundaries) == sorted(boundaries)
        return Recorded(kept, name, tag_keys)

    monkeypatch.setattr(metrics, "Counter", plain)
    monkeypatch.setattr(metrics, "Gauge", plain)
    monkeypatch.setattr(metrics, "Histogram", histogram)
    return kept


def values(recorded: dict[str, Recorded], name: str, *tags: str) -> list[float]:
    return recorded[f"alphagrpo_{name}"].values.get(tags or (NOBODY,), [])


def test_questions_are_pending_while_their_picture_is_in_hand(recorded) -> None:
    verifier = metrics.VerifierMetrics()
    with verifier.picture(5):
        with verifier.picture(3):
            assert verifier.work.in_hand == 8
        assert verifier.work.in_hand == 5
    assert verifier.work.in_hand == 0
    assert verifier.work.report()[PENDING] == 8
    assert values(recorded, "verifier_pending_questions") == [0, 5, 8, 5, 0]
    assert values(recorded, "verifier_questions") == [0, 3, 5]
    assert len(values(recorded, "verifier_latency_seconds")) == 2
    verifier.close()


def test_counters_are_there_before_they_count(recorded) -> None:
    metrics.VerifierMetrics()
    metrics.DecomposerMetrics()
    metrics.GeneratorMetrics()
    for name in ("verifier_questions", "generator_pictures", "generator_refinements"):
        assert values(recorded, name) == [0]
    for reason in ("cancelled", "ConfigError", "ServiceError", "ServiceUnavailable"):
        assert values(recorded, "verifier_failures", NOBODY, reason) == [0]
        assert values(recorded, "decomposer_prompts", NOBODY, reason) == [0]
    for outcome in ("ok", "Overloaded"):
        assert values(recorded, "generator_requests", NOBODY, outcome) == [0]


def test_each_run_has_its_own_series(recorded) -> None:
    verifier = metrics.VerifierMetrics()
    with verifier.picture(5, "first"), verifier.picture(3, "second"):
        pass
    verifier.answers([0.5], "first")
    assert values(recorded, "verifier_questions", "first") == [0, 5]
    assert values(recorded, "verifier_questions", "second") == [0, 3]
    assert values(recorded, "verifier_pending_questions", "first") == [0, 5, 0]
    assert values(recorded, "verifier_failures", "second", "ServiceError") == [0]
    assert values(recorded, "verifier_p_yes", "first") == [0.5]


def test_a_failed_picture_is_no_answer_and_leaves_nothing_pending(recorded) -> None:
    verifier = metrics.VerifierMetrics()
    with pytest.raises(ValueError, match="odd"), verifier.picture(5):
        raise ValueError("odd")
    assert verifier.work.in_hand == 0
    assert values(recorded, "verifier_failures", NOBODY, "ValueError") == [1]
    assert values(recorded, "verifier_questions") == [0]
    assert values(recorded, "verifier_latency_seconds") == []


def test_every_answer_goes_into_the_histogram(recorded) -> None:
    metrics.VerifierMetrics().answers(iter([0.25, 0.75]))
    assert values(recorded, "verifier_p_yes") == [0.25, 0.75]


def test_requests_end_ok_or_by_their_error_or_with_their_caller(recorded) -> None:
    decomposer = metrics.DecomposerMetrics()
    with decomposer.request():
        assert decomposer.work.in_hand == 1
    with pytest.raises(NoQuestions), decomposer.request():
        raise NoQuestions("none")
    with pytest.raises(asyncio.CancelledError), decomposer.request():
        raise asyncio.CancelledError
    assert decomposer.work.in_hand == 0
    for outcome in ("ok", "NoQuestions", "cancelled"):
        assert values(recorded, "decomposer_prompts", NOBODY, outcome) == [0, 1]
    assert len(values(recorded, "decomposer_latency_seconds")) == 1


def test_pictures_and_refinements_are_told_apart(recorded) -> None:
    generator = metrics.GeneratorMetrics()
    generator.picture(7, 0)
    generator.picture(8, 2)
    assert values(recorded, "generator_pictures") == [0, 1, 1]
    assert values(recorded, "generator_refinements") == [0, 1]
    assert values(recorded, "generator_weights_version") == [7, 8]


def test_tags_stay_few_whatever_callers_send() -> None:
    tags = RunTags()
    assert tags.tag("") == NOBODY
    assert tags.tag("bagel-7b-rt2i") == "bagel-7b-rt2i"
    for name in ("a b", "x" * 65, 'a"} 1', "-"):
        assert tags.tag(name) == OTHERS
    seen = {tags.tag(f"run{number}") for number in range(2 * MOST_RUNS)}
    assert len(seen) == MOST_RUNS
    assert tags.tag("bagel-7b-rt2i") == "bagel-7b-rt2i", "a run that was known stays known"
