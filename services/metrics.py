"""Metrics of the services through Ray's exporter: ``alphagrpo_<area>_<name>_<unit>``.

`docs/metrics.md` lists them. Every one has the tag ``run``, the run that asks; the gateway's have
the tag ``caller``, whose token was sent. Ray prefixes a name with ``ray_`` and ends a counter in
``_total``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from ray.util.metrics import Counter, Gauge, Histogram

from alphagrpo.lasting_metrics import GaugeKeeper, start_at_zero
from services.autoscaling import WorkMeter
from services.caller import RunTags

TAGS = ("run",)
CALLER = ("caller",)
OK = "ok"
CANCELLED = "cancelled"
"""The caller has gone, as one whose deadline has passed."""
LIMITED, REFUSED, FAILED = "limited", "refused", "failed"
"""HTTP requests past a caller's limits, wrong ones, and those that a service could not answer."""
FAILURES = (CANCELLED, "ConfigError", "ServiceError", "ServiceUnavailable")
"""How a judge fails, counted from 0; other errors are counted from their first on."""
_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
_TENTHS = [i / 10 for i in range(1, 11)]


class _Requests:
    """What the metrics of every service share: work in hand, seconds, and who asks."""

    def __init__(self, area: str, noun: str, what: str) -> None:
        self.work = WorkMeter()
        """What the autoscaling policy is told."""
        self._area = area
        self._keeper = GaugeKeeper()
        self._run_tags = RunTags()
        self._pending_by_run: dict[str, int] = {}
        self._counters: list[tuple[Counter, tuple[dict[str, str], ...]]] = []
        self._pending = Gauge(
            f"alphagrpo_{area}_pending_{noun}", f"{what} taken and not yet answered", TAGS
        )
        self._latency = Histogram(
            f"alphagrpo_{area}_latency_seconds", "A request, from first to last", _SECONDS, TAGS
        )

    def close(self) -> None:
        """The replica ends."""
        self._keeper.close()

    def _counter(
        self, name: str, text: str, tag: str | None = None, known: Sequence[str] = ()
    ) -> Counter:
        """A counter that is there with 0, for each ``known`` value of ``tag``, once a run asks."""
        keys = TAGS if tag is None else (*TAGS, tag)
        counter = Counter(f"alphagrpo_{self._area}_{name}", text, keys)
        tags = ({},) if tag is None else tuple({tag: value} for value in known)
        self._counters.append((counter, tags))
        return counter

    def _start(self, run: str = "") -> str:
        """The tag of ``run``, its series in place."""
        tag = self._run_tags.tag(run)
        if tag not in self._pending_by_run:
            self._add(tag, 0)
            for counter, known in self._counters:
                for tags in known:
                    start_at_zero(counter, {"run": tag, **tags})
        return tag

    @contextmanager
    def _asked(self, tag: str, work: int) -> Iterator[None]:
        """Counts ``work`` while the body answers it, and the seconds if it does."""
        started = perf_counter()
        self.work.take(work)
        self._add(tag, work)
        answered = False
        try:
            yield
            answered = True
        finally:
            self.work.finish(work, answered=answered)
            self._add(tag, -work)
        self._latency.observe(perf_counter() - started, {"run": tag})

    def _add(self, tag: str, number: int) -> None:
        self._pending_by_run[tag] = self._pending_by_run.get(tag, 0) + number
        self._keeper.set(self._pending, self._pending_by_run[tag], {"run": tag})


class VerifierMetrics(_Requests):
    """What one verifier replica has in hand and has answered."""

    def __init__(self) -> None:
        super().__init__("verifier", "questions", "Questions")
        self._questions = self._counter("questions", "Questions answered")
        self._failures = self._counter("failures", "Pictures without verdicts", "reason", FAILURES)
        self._p_yes = Histogram("alphagrpo_verifier_p_yes", "P(yes) of answers", _TENTHS, TAGS)
        self._start()

    @contextmanager
    def picture(self, num_questions: int, run: str = "") -> Iterator[None]:
        """Counts one picture's call, its time, and its failure if the body raises."""
        tag = self._start(run)
        try:
            with self._asked(tag, num_questions):
                yield
        except BaseException as error:
            self._failures.inc(tags={"run": tag, "reason": _reason(error)})
            raise
        self._questions.inc(max(num_questions, 1), tags={"run": tag})

    def answers(self, p_yes: Iterable[float], run: str = "") -> None:
        """Records the answers of a picture."""
        tag = self._start(run)
        for value in p_yes:
            self._p_yes.observe(value, {"run": tag})


class RequestMetrics(_Requests):
    """Requests one replica has in hand and has finished: how many, how they ended, how long."""

    def __init__(self, area: str, noun: str, what: str, outcomes: Sequence[str]) -> None:
        super().__init__(area, noun, what)
        self._finished = self._counter(noun, f"{what} by how they ended", "outcome", outcomes)

    @contextmanager
    def request(self, run: str = "") -> Iterator[None]:
        """Counts one request, its time and its outcome."""
        tag = self._start(run)
        try:
            with self._asked(tag, 1):
                yield
        except BaseException as error:
            self._finished.inc(tags={"run": tag, "outcome": _reason(error)})
            raise
        self._finished.inc(tags={"run": tag, "outcome": OK})


class DecomposerMetrics(RequestMetrics):
    """What one decomposer replica has in hand and has answered."""

    def __init__(self) -> None:
        super().__init__("decomposer", "prompts", "Prompts", (OK, "NoQuestions", *FAILURES))
        self._start()


class GeneratorMetrics(RequestMetrics):
    """What one generator replica has in hand and has drawn."""

    def __init__(self) -> None:
        outcomes = (OK, "BadImage", "DeadlineExceeded", "Overloaded", *FAILURES)
        super().__init__("generator", "requests", "Requests", outcomes)
        self._pictures = self._counter("pictures", "Pictures drawn")
        self._refined = self._counter("refinements", "Of these, refinements")
        self._version = Gauge("alphagrpo_generator_weights_version", "Weights that drew last", TAGS)
        self._start()

    def picture(self, version: int, round_index: int, run: str = "") -> None:
        """Counts one picture and says whose it is."""
        tag = self._start(run)
        self._pictures.inc(tags={"run": tag})
        if round_index:
            self._refined.inc(tags={"run": tag})
        self._keeper.set(self._version, version, {"run": tag})


class GatewayMetrics:
    """What one gateway replica was asked, by whom, and how it ended."""

    def __init__(self, callers: Sequence[str]) -> None:
        self._keeper = GaugeKeeper()
        self._requests = Counter(
            "alphagrpo_gateway_requests", "HTTP requests by how they ended", ("caller", "outcome")
        )
        self._pending = Gauge(
            "alphagrpo_gateway_pending_requests", "HTTP requests taken and not yet answered", CALLER
        )
        for caller in callers:
            self.pending(caller, 0)
            for outcome in (OK, LIMITED, REFUSED, FAILED, CANCELLED):
                start_at_zero(self._requests, {"caller": caller, "outcome": outcome})

    def pending(self, caller: str, number: int) -> None:
        """So many requests of a caller are under way."""
        self._keeper.set(self._pending, number, {"caller": caller})

    def finished(self, caller: str, status: int | None) -> None:
        """A request has ended, with an HTTP status or with none."""
        self._requests.inc(tags={"caller": caller, "outcome": _outcome(status)})

    def close(self) -> None:
        """The replica ends."""
        self._keeper.close()


def _outcome(status: int | None) -> str:
    if status is None:
        return CANCELLED
    if status == 429:
        return LIMITED
    return OK if status < 400 else REFUSED if status < 500 else FAILED


def _reason(error: BaseException) -> str:
    return type(error).__name__ if isinstance(error, Exception) else CANCELLED
