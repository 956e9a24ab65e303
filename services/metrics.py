"""Metrics of the services through Ray's exporter: ``alphagrpo_<area>_<name>_<unit>``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter

from ray.util.metrics import Counter, Gauge, Histogram

_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
_TENTHS = [i / 10 for i in range(1, 11)]


class VerifierMetrics:
    """What one verifier replica has in hand and has answered."""

    def __init__(self) -> None:
        self.pending = 0
        """Questions taken and not yet answered."""
        self._pending = Gauge(
            "alphagrpo_verifier_pending_questions", "Questions taken and not yet answered"
        )
        self._questions = Counter("alphagrpo_verifier_questions_total", "Questions answered")
        self._failures = Counter(
            "alphagrpo_verifier_failures_total", "Pictures without verdicts", tag_keys=("reason",)
        )
        self._latency = Histogram(
            "alphagrpo_verifier_latency_seconds", "All questions of a picture", boundaries=_SECONDS
        )
        self._p_yes = Histogram(
            "alphagrpo_verifier_p_yes_ratio", "P(yes) of answers", boundaries=_TENTHS
        )

    @contextmanager
    def picture(self, num_questions: int) -> Iterator[None]:
        """Counts one picture's call, its time, and its failure if the body raises."""
        started = perf_counter()
        self._add(num_questions)
        try:
            yield
        except Exception as error:
            self._failures.inc(tags={"reason": type(error).__name__})
            raise
        finally:
            self._add(-num_questions)
        self._questions.inc(max(num_questions, 1))
        self._latency.observe(perf_counter() - started)

    def answers(self, p_yes: Iterable[float]) -> None:
        """Records the answers of a picture."""
        for value in p_yes:
            self._p_yes.observe(value)

    def _add(self, number: int) -> None:
        self.pending += number
        self._pending.set(self.pending)


class DecomposerMetrics:
    """What one decomposer replica has in hand and has answered."""

    def __init__(self) -> None:
        self.pending = 0
        """Prompts taken and not yet answered."""
        self._pending = Gauge(
            "alphagrpo_decomposer_pending_prompts", "Prompts taken and not yet answered"
        )
        self._prompts = Counter(
            "alphagrpo_decomposer_prompts_total", "Prompts answered", tag_keys=("outcome",)
        )
        self._latency = Histogram(
            "alphagrpo_decomposer_latency_seconds", "Questions of a prompt", boundaries=_SECONDS
        )

    @contextmanager
    def prompt(self) -> Iterator[None]:
        """Counts one prompt's call, its time and its outcome."""
        started = perf_counter()
        self._add(1)
        try:
            yield
        except Exception as error:
            self._prompts.inc(tags={"outcome": type(error).__name__})
            raise
        finally:
            self._add(-1)
        self._prompts.inc(tags={"outcome": "ok"})
        self._latency.observe(perf_counter() - started)

    def _add(self, number: int) -> None:
        self.pending += number
        self._pending.set(self.pending)


class GeneratorMetrics:
    """What one generator replica has in hand and has drawn."""

    def __init__(self) -> None:
        self.pending = 0
        """Requests taken and not yet finished."""
        self._pending = Gauge(
            "alphagrpo_generator_pending_requests", "Requests taken and not yet finished"
        )
        self._requests = Counter(
            "alphagrpo_generator_requests_total", "Requests finished", tag_keys=("outcome",)
        )
        self._pictures = Counter("alphagrpo_generator_pictures_total", "Pictures drawn")
        self._refined = Counter("alphagrpo_generator_refinements_total", "Of these, refinements")
        self._version = Gauge("alphagrpo_generator_weights_version", "Weights that drew last")
        self._latency = Histogram(
            "alphagrpo_generator_latency_seconds", "A whole request", boundaries=_SECONDS
        )

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts one request, its time and its outcome."""
        started = perf_counter()
        self._add(1)
        try:
            yield
        except Exception as error:
            self._requests.inc(tags={"outcome": type(error).__name__})
            raise
        finally:
            self._add(-1)
        self._requests.inc(tags={"outcome": "ok"})
        self._latency.observe(perf_counter() - started)

    def picture(self, version: int, round_index: int) -> None:
        """Counts one picture and says whose it is."""
        self._pictures.inc()
        if round_index:
            self._refined.inc()
        self._version.set(version)

    def _add(self, number: int) -> None:
        self.pending += number
        self._pending.set(self.pending)
