"""A stand-in for the verifier that sleeps instead of looking: for measuring Serve, not answers.

``import_path: benchmarks.stand_in:build``. Everything but the engine is the real thing: the calls,
the metrics, what the autoscaling policy is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve

from alphagrpo.types import Question, Verdict
from services.metrics import VerifierMetrics


@dataclass(frozen=True, slots=True)
class Pace:
    """``args`` of the application."""

    start_s: float = 5.0
    """An engine loads its model."""
    picture_s: float = 1.0
    at_once: int = 4
    """Pictures answered together; more wait inside the replica, as in an engine's own queue."""
    revision: str = "1"
    """Differs between two deployments of the same application."""


@serve.deployment(name="Verifier", max_ongoing_requests=256, graceful_shutdown_timeout_s=60.0)
class StandIn:
    """Answers "maybe" to every question, after a while."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]
        self._pace = Pace(**args)
        self._slots = asyncio.Semaphore(self._pace.at_once)
        await asyncio.sleep(self._pace.start_s)
        self.metrics = VerifierMetrics()

    async def verify(
        self, pixels: Any, questions: Sequence[Question], run: str = ""
    ) -> tuple[Verdict, ...]:
        """A verdict of 0.5 per question; ``judge`` names the revision that gave it."""
        with self.metrics.picture(len(questions), run):
            async with self._slots:
                await asyncio.sleep(self._pace.picture_s)
        judge = f"stand-in@{self._pace.revision}"
        return tuple(Verdict(question_id=q.id, p_yes=0.5, judge=judge) for q in questions)

    async def verify_all(
        self, asked: Sequence[tuple[Any, Sequence[Question]]], run: str = ""
    ) -> list[tuple[Verdict, ...]]:
        """As the verifier's."""
        return await asyncio.gather(*(self.verify(*each, run) for each in asked))

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """``user_config: {revision: ...}`` changes the name in the verdicts, and nothing else."""
        self._pace = Pace(**{**_fields(self._pace), **user_config})

    def record_autoscaling_stats(self) -> dict[str, float]:
        """As the verifier's."""
        return self.metrics.work.report()

    def __del__(self) -> None:
        if metrics := getattr(self, "metrics", None):
            metrics.close()


def _fields(pace: Pace) -> dict[str, Any]:
    return {name: getattr(pace, name) for name in Pace.__slots__}


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve config's ``args`` (:class:`Pace`)."""
    return StandIn.bind(args)  # type: ignore[attr-defined]
