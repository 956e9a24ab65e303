"""The verifier as a Serve application: ``import_path: services.verifier:build``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import serve
from ray.serve.config import BackpressureConfig

from alphagrpo.errors import MeshError
from alphagrpo.judging.verification import VerificationProgram
from alphagrpo.types import Question, Verdict
from services.bundles import only_mesh_errors
from services.engine_vllm import VllmEngine
from services.metrics import VerifierMetrics
from services.paths import check_model
from services.settings import VerifierSettings, parse_settings
from services.watching import HEALTH_PERIOD_S, HEALTH_TIMEOUT_S, watch

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("ray.serve")

_PROBE = Question(id="s0", text="is there a red circle ?", kind="semantic", tag="Existence")
_PROBE_SIDE = 48


@serve.deployment(
    name="Verifier",
    max_ongoing_requests=64,
    max_queued_requests=256,
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1.0),
    health_check_period_s=HEALTH_PERIOD_S,
    health_check_timeout_s=HEALTH_TIMEOUT_S,
    graceful_shutdown_timeout_s=120.0,
    max_constructor_retry_count=2,
)
class VerifierDeployment:
    """One replica: a :class:`VerificationProgram` over a vLLM engine of its own."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]
        settings = parse_settings(VerifierSettings, args, "verifier")
        self.engine = VllmEngine(settings.engine, vision=True)
        self._watching = asyncio.create_task(watch(self.engine))
        self.program = VerificationProgram(
            self.engine,
            template=settings.template,
            warm_first=settings.warm_first,
            cache_size=settings.cache_size,
            max_questions=settings.max_questions,
            max_question_chars=settings.max_question_chars,
        )
        self.metrics = VerifierMetrics()
        # One answer before traffic: no caller waits for what vLLM does on its first request.
        blank = np.zeros((_PROBE_SIDE, _PROBE_SIDE, 3), np.uint8)
        await self.program.verify(blank, [_PROBE])
        log.info("verifier is ready, judge %s", self.program.judge)

    async def verify(
        self, pixels: NDArray[np.uint8], questions: Sequence[Question], run: str = ""
    ) -> tuple[Verdict, ...]:
        """All verdicts about one picture; see :meth:`VerificationProgram.verify`.

        ``run``: the run that asks, for the metrics.
        """
        with self.metrics.picture(len(questions), run):
            verdicts = await self.program.verify(pixels, questions)
        self.metrics.answers((v.p_yes for v in verdicts if v.grade is None), run)
        return verdicts

    async def verify_all(
        self, asked: Sequence[tuple[NDArray[np.uint8], Sequence[Question]]], run: str = ""
    ) -> list[tuple[Verdict, ...] | MeshError]:
        """:meth:`verify` for some pictures at once: of each its verdicts, or why it has none."""
        answers = await asyncio.gather(
            *(self.verify(pixels, questions, run) for pixels, questions in asked),
            return_exceptions=True,
        )
        return only_mesh_errors(answers)

    async def info(self) -> dict[str, Any]:
        """The judge's name and revisions, and how its cache does."""
        return {
            "model": self.engine.model.name,
            "revision": self.program.judge,
            "template": self.program.template,
            "cache_hits": self.program.cache.hits,
            "cache_misses": self.program.cache.misses,
        }

    async def check_health(self) -> None:
        """Serve looks at the process; a dead or silent engine ends it (services/watching.py)."""
        await self.engine.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Questions in hand and answered, for :class:`services.autoscaling.PendingWorkPolicy`."""
        return self.metrics.work.report()

    def __del__(self) -> None:
        if metrics := getattr(self, "metrics", None):
            metrics.close()
        if engine := getattr(self, "engine", None):
            engine.shutdown()


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve config's ``args`` (:class:`VerifierSettings`).

    Raises ConfigError for wrong keys and for a missing or broken model folder, before anything is
    started.
    """
    check_model(parse_settings(VerifierSettings, args, "verifier").engine.model)
    return VerifierDeployment.bind(args)  # type: ignore[attr-defined]
