"""A worker's weights: pulled when a job names others, refused where they are not what was asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from alphagrpo.errors import WeightsError
from alphagrpo.models.weights import Chunk
from alphagrpo.ports import WeightStore
from alphagrpo.types import WeightsManifest

log = logging.getLogger(__name__)

PAUSES_S = (0.5, 2.0, 8.0)
"""Before weights are asked for again that were not those asked for, one time after another."""


class Weighted(Protocol):
    """What has weights."""

    @property
    def manifest(self) -> WeightsManifest | None:
        """The weights it has; None before the first."""
        ...

    def apply_weights(self, manifest: WeightsManifest, chunks: Sequence[Chunk]) -> None:
        """Use other weights, or raise WeightsError and keep the ones there were."""
        ...


async def use_weights(
    worker: Weighted,
    store: WeightStore,
    version: int,
    in_thread: Callable[..., Awaitable[object]],
) -> None:
    """Pull ``version`` unless the worker has it, bit for bit (a restarted learner may have
    published other weights under the same number).

    ``in_thread`` runs a function where the worker is at home.

    Raises:
        WeightsError: the version is gone, or what arrives is again and again not what was asked.
    """
    own, newest = worker.manifest, await store.newest()
    same_bits = newest is None or newest.version != version or own == newest
    if own is not None and own.version == version and same_bits:
        return
    for pause_s in (*PAUSES_S, None):
        manifest, chunks = await store.fetch(version)
        try:
            if manifest.version != version:
                raise WeightsError(
                    f"weights {version} were asked for, got {manifest.version}; the registry "
                    "mixes them up"
                )
            await in_thread(worker.apply_weights, manifest, chunks)
            return
        except WeightsError as error:
            if pause_s is None:
                raise
            log.warning("weights %d refused, again in %g s: %s", version, pause_s, error)
        await asyncio.sleep(pause_s)
