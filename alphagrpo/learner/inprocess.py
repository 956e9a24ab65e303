"""Learner and weight store without Ray: for tests, notebooks, and one process on one device."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from alphagrpo.errors import WeightsError
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.learner.state import load_learner, save_learner
from alphagrpo.models.weights import Chunk
from alphagrpo.ports import TrainingBatch, UpdateReport
from alphagrpo.types import WeightsManifest


class LocalStore:
    """:class:`alphagrpo.ports.WeightStore` that keeps the newest version in memory."""

    def __init__(self) -> None:
        self._kept: tuple[WeightsManifest, Sequence[Chunk]] | None = None

    async def publish(self, chunks: Sequence[Chunk], manifest: WeightsManifest) -> None:
        """Make a version the newest."""
        self._kept = (manifest, chunks)

    async def newest(self) -> WeightsManifest | None:
        """The newest manifest, or None before the first publication."""
        return None if self._kept is None else self._kept[0]

    async def fetch(self, version: int) -> tuple[WeightsManifest, Sequence[Chunk]]:
        """Manifest and chunks of the newest version; WeightsError for any other."""
        if self._kept is None or self._kept[0].version != version:
            newest = None if self._kept is None else self._kept[0].version
            raise WeightsError(
                f"weights {version} are not kept, the newest is {newest}; ask for it"
            )
        return self._kept


class LocalLearner:
    """:class:`alphagrpo.ports.Learner` over a learner here; groups are passed as they are."""

    def __init__(self, learner: GRPOLearner, store: LocalStore) -> None:
        self._learner, self._store = learner, store

    async def update(self, batch: TrainingBatch) -> UpdateReport:
        """One GRPO step, in a thread, so that verdicts can arrive meanwhile."""
        return await asyncio.to_thread(self._learner.update, batch)

    async def publish(self) -> WeightsManifest:
        """Publish the current parameters."""
        manifest, chunks = self._learner.export()
        await self._store.publish(chunks, manifest)
        return manifest

    async def save(self, folder: str) -> None:
        """Write the learner's state into ``folder``."""
        await asyncio.to_thread(save_learner, self._learner, folder)

    async def load(self, folder: str) -> int:
        """Restore the learner's state; returns the step."""
        return await asyncio.to_thread(load_learner, self._learner, folder)
