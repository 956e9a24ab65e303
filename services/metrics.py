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


class RequestMetrics:
    """Requests one replica has in hand and has finished: how many, how they ended, how long."""

    def __init__(self, area: str, noun: str, what: str) -> None:
        self.pending = 0
        """Requests taken and not yet answered."""
        self._pending = Gauge(
            f"alphagrpo_{area}_pending_{noun}", f"{what} taken and not yet answered"
        )
        self._finished = Counter(
            f"alphagrpo_{area}_{noun}_total", f"{what} answered", tag_keys=("outcome",)
        )
        self._latency = Histogram(
            f"alphagrpo_{area}_latency_seconds",
            f"{what}, each from first to last",
            boundaries=_SECONDS,
        )

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts one request, its time and its outcome."""
        started = perf_counter()
        self._add(1)
        try:
            yield
        except Exception as error:
            self._finished.inc(tags={"outcome": type(error).__name__})
            raise
        finally:
            self._add(-1)
        self._finished.inc(tags={"outcome": "ok"})
        self._latency.observe(perf_counter() - started)

    def _add(self, number: int) -> None:
        self.pending += number
        self._pending.set(self.pending)


class DecomposerMetrics(RequestMetrics):
    """What one decomposer replica has in hand and has answered."""

    def __init__(self) -> None:
        super().__init__("decomposer", "prompts", "Prompts")


class GeneratorMetrics(RequestMetrics):
    """What one generator replica has in hand and has drawn."""

    def __init__(self) -> None:
        super().__init__("generator", "requests", "Requests")
        self._pictures = Counter("alphagrpo_generator_pictures_total", "Pictures drawn")
        self._refined = Counter("alphagrpo_generator_refinements_total", "Of these, refinements")
        self._version = Gauge("alphagrpo_generator_weights_version", "Weights that drew last")

    def picture(self, version: int, round_index: int) -> None:
        """Counts one picture and says whose it is."""
        self._pictures.inc()
        if round_index:
            self._refined.inc()
        self._version.set(version)
