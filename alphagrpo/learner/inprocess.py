"""Learner and weight store without Ray: for tests, notebooks, and one process on one device."""

from __future__ import annotations

from collections.abc import Sequence

from alphagrpo.errors import WeightsError
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.learner.rank import LocalRank
from alphagrpo.learner.ranked import RankedLearner
from alphagrpo.models.weights import Chunk
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


class LocalLearner(RankedLearner):
    """:class:`alphagrpo.ports.Learner` over a learner here; groups are passed as they are."""

    def __init__(self, learner: GRPOLearner, store: LocalStore) -> None:
        super().__init__([LocalRank(learner, store)], learner.config)
