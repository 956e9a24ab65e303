"""The decomposer as a Serve application: ``import_path: services.decomposer:build``."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray import serve
from ray.serve.config import BackpressureConfig

from alphagrpo.judging.decomposition import Decomposition, make_program
from alphagrpo.judging.questions import question_set_schema
from alphagrpo.types import QuestionSet
from services.engine_vllm import VllmEngine
from services.metrics import DecomposerMetrics
from services.paths import check_model
from services.settings import DecomposerSettings, parse_settings
from services.watching import HEALTH_PERIOD_S, HEALTH_TIMEOUT_S, watch

log = logging.getLogger("ray.serve")


@serve.deployment(
    name="Decomposer",
    max_ongoing_requests=64,
    max_queued_requests=256,
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1.0),
    health_check_period_s=HEALTH_PERIOD_S,
    health_check_timeout_s=HEALTH_TIMEOUT_S,
    graceful_shutdown_timeout_s=120.0,
    max_constructor_retry_count=2,
)
class DecomposerDeployment:
    """One replica: a :class:`Decomposition` over a vLLM engine of its own."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]
        settings = parse_settings(DecomposerSettings, args, "decomposer")
        self.engine = VllmEngine(settings.engine)
        self._watching = asyncio.create_task(watch(self.engine))
        schema = question_set_schema(
            max_semantic=settings.max_semantic,
            max_quality=settings.max_quality,
            max_chars=settings.max_question_chars,
        )
        program = make_program(
            settings.program,
            self.engine,
            template=settings.template,
            max_tokens=settings.max_tokens,
            max_attempts=settings.max_attempts,
            schema=schema,
        )
        self.decomposition = Decomposition(
            self.engine, program, max_prompt_chars=settings.max_prompt_chars
        )
        self.metrics = DecomposerMetrics()
        # Compiles the schema's grammar before traffic.
        await self.engine.generate("a red circle\n", max_tokens=2, schema=schema)
        log.info("decomposer is ready, revision %s", self.decomposition.revision)

    async def decompose(self, prompt: str, run: str = "") -> QuestionSet:
        """The question set of a prompt; see :meth:`Decomposition.decompose`.

        ``run``: the run that asks, for the metrics.
        """
        with self.metrics.request(run):
            return await self.decomposition.decompose(prompt)

    async def info(self) -> dict[str, Any]:
        """Program, model, and the revision that signs question sets."""
        return {
            "model": self.engine.model.name,
            "program": self.decomposition.program.name,
            "revision": self.decomposition.revision,
        }

    async def check_health(self) -> None:
        """Serve looks at the process; a dead or silent engine ends it (services/watching.py)."""
        await self.engine.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Prompts in hand and answered, for :class:`services.autoscaling.PendingWorkPolicy`."""
        return self.metrics.work.report()

    def __del__(self) -> None:
        if metrics := getattr(self, "metrics", None):
            metrics.close()
        if engine := getattr(self, "engine", None):
            engine.shutdown()


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve config's ``args`` (:class:`DecomposerSettings`).

    Raises ConfigError for wrong keys and for a missing or broken model folder, before anything is
    started.
    """
    check_model(parse_settings(DecomposerSettings, args, "decomposer").engine.model)
    return DecomposerDeployment.bind(args)  # type: ignore[attr-defined]
