"""The generator as a Serve application: ``import_path: services.generator:build``.

It serves a trained policy: drafts, refinements behind the DVReward gate, edits. New weights are
picked up between two batches, from the run folder it follows or from ``user_config``; every picture
says which version drew it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from ray.serve.config import BackpressureConfig

from alphagrpo.config import load_config
from alphagrpo.shipped import locate
from services.generator.models import GenerateRequest, RoundEvent
from services.generator.policy_queue import PolicyQueue, open_queue
from services.generator.service import GenerationService
from services.metrics import GeneratorMetrics
from services.paths import project_root
from services.settings import GeneratorSettings, parse_settings
from services.watching import HEALTH_PERIOD_S, HEALTH_TIMEOUT_S, watch

log = logging.getLogger("ray.serve")


@serve.deployment(
    name="Generator",
    max_ongoing_requests=32,
    max_queued_requests=64,
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=2.0),
    health_check_period_s=HEALTH_PERIOD_S,
    health_check_timeout_s=HEALTH_TIMEOUT_S,
    graceful_shutdown_timeout_s=300.0,
    max_constructor_retry_count=2,
)
class GeneratorDeployment:
    """One replica: a policy, its queue, and the rounds of :mod:`alphagrpo.rollout.rounds`."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]
        settings = parse_settings(GeneratorSettings, args, "generator")
        self.queue: PolicyQueue = await asyncio.to_thread(open_queue, settings)
        self.service = GenerationService(self.queue, settings)
        self.metrics = GeneratorMetrics()
        self._settings = settings
        self._told = asyncio.Event()
        """Set when there is another source to look at."""
        self._following = asyncio.create_task(self._follow())
        self._watching = asyncio.create_task(watch(self.queue))
        log.info("generator is ready, weights %s", self.queue.weights)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """``user_config: {weights: FOLDER}``: another run or checkpoint, without a restart.

        It does not wait for them: Serve sends a replica no requests while this runs, and loading
        would be an outage of the only one.
        """
        weights = user_config.get("weights")
        if weights is not None:
            self.queue.source = str(weights)
            self._told.set()

    async def generate(
        self, request: dict[str, Any], run: str = ""
    ) -> AsyncIterator[dict[str, Any]]:
        """Events of :mod:`services.generator.models` as JSON values, as they happen.

        ``run``: the run that asks, for the metrics.

        Raises ConfigError and BadImage for requests out of bounds before anything is drawn,
        Overloaded, DeadlineExceeded, and what decomposer or verifier raise.
        """
        with self.metrics.request(run):
            async for event in self.service.events(GenerateRequest.model_validate(request)):
                if isinstance(event, RoundEvent):
                    self.metrics.picture(event.weights.version, event.round, run)
                yield event.model_dump(mode="json")

    async def info(self) -> dict[str, Any]:
        """Which weights draw, what is waiting, and the limits of requests."""
        return {
            "model": self.queue.model_name,
            "revision": f"{self.queue.model_name}@v{self.queue.weights.version}",
            "weights": self.queue.weights.model_dump(),
            "queued": self.queue.queued,
            "max_rounds": self._settings.max_rounds,
            "size": list(self.queue.size),
        }

    async def check_health(self) -> None:
        """Serve replaces this replica when following its weights has ended by an error of ours.

        A device that has failed and a drawing that hangs end its process (services/watching.py).
        """
        if self._following.done():
            self._following.result()

    async def _follow(self) -> None:
        """Look for newer weights every ``poll_s`` and when told; unreadable ones are left alone."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.poll_s):
                    await self._told.wait()
            self._told.clear()
            await self.queue.refresh()

    def __del__(self) -> None:
        if metrics := getattr(self, "metrics", None):
            metrics.close()
        if queue := getattr(self, "queue", None):
            queue.close()


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve config's ``args`` (:class:`GeneratorSettings`).

    Raises ConfigError for wrong keys and for a run config that is missing or wrong, before anything
    is started.
    """
    settings = parse_settings(GeneratorSettings, args, "generator")
    load_config(locate(settings.config, project_root()), list(settings.overrides))
    return GeneratorDeployment.bind(args)  # type: ignore[attr-defined]
