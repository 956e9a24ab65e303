"""What a run needs of the mesh (steps, pictures, checkpoints), over the RLlib front door."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.loop import StepReport
    from alphagrpo.ports import RolloutPool
    from alphagrpo.types import WeightsManifest

T = TypeVar("T")


class Mesh(Protocol):
    """The running parts of one training run, as its composition sees them."""

    manifest: WeightsManifest | None
    """Of the weights published last."""

    @property
    def pool(self) -> RolloutPool:
        """Where pictures are drawn."""
        ...

    @property
    def step_number(self) -> int:
        """Steps taken so far."""
        ...

    @property
    def set_aside(self) -> Mapping[str, str]:
        """Prompts of which no question could be made, and why."""
        ...

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the mesh lives; what is interrupted is cancelled."""
        ...

    def step(self) -> StepReport:
        """Draw, score, learn, publish."""
        ...

    def version(self) -> int:
        """The version to draw with; published now where none is yet."""
        ...

    def save(self, folder: Path) -> None:
        """Write learner and loop into ``folder``."""
        ...

    def load(self, folder: Path) -> None:
        """Restore what :meth:`save` wrote; CheckpointError where it is not whole."""
        ...


class AlgorithmMesh:
    """:class:`Mesh` over :class:`actors.algorithm.AlphaGRPO`."""

    def __init__(self, algorithm: Any) -> None:
        self._algorithm = algorithm
        self.manifest: WeightsManifest | None = None

    @property
    def pool(self) -> RolloutPool:
        """The Ray rollout pool."""
        return self._algorithm.mesh.pool

    @property
    def step_number(self) -> int:
        """Steps of the training loop."""
        return self._algorithm.loop.step

    @property
    def set_aside(self) -> Mapping[str, str]:
        """Prompts the feed has set aside."""
        return self._algorithm.loop.feed.set_aside

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the algorithm's event loop."""
        return self._algorithm.ask(work)

    def step(self) -> StepReport:
        """One ``train()`` of the algorithm."""
        self._algorithm.train()
        self.manifest = self._algorithm.loop.manifest
        return self._algorithm.last_report

    def version(self) -> int:
        """The version to draw with."""
        manifest: WeightsManifest = self.run(self._algorithm.loop.ensure_published())
        self.manifest = manifest
        return manifest.version

    def save(self, folder: Path) -> None:
        """Write an AlphaGRPO checkpoint."""
        self._algorithm.save_to_path(folder)

    def load(self, folder: Path) -> None:
        """Restore an AlphaGRPO checkpoint."""
        self._algorithm.restore_from_path(folder)


@contextmanager
def start_mesh(config: RunConfig) -> Iterator[Mesh]:
    """All actors in the connected cluster, each with its model loaded; they end with the block.

    Raises what an actor said when it could not start.
    """
    from actors.config import AlphaGRPOConfig

    for chatty in ("ray.rllib", "ray.tune"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    algorithm = AlphaGRPOConfig().mesh(run=config).build_algo()
    try:
        yield AlgorithmMesh(algorithm)
    finally:
        algorithm.stop()
