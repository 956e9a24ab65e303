"""What a run does when a process was lost under it: restore what was lost, and begin again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ray.exceptions import ObjectLostError, RayTaskError

from actors.saved import LEARNER, read_state
from alphagrpo.errors import CheckpointError, LearnerLost, WeightsError
from alphagrpo.record.folder import RunFolder

if TYPE_CHECKING:
    from actors.mesh import Mesh
    from alphagrpo.config import RunConfig
    from alphagrpo.loop import TrainingLoop

log = logging.getLogger(__name__)
T = TypeVar("T")

PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Before work is begun again after a process or an object was lost under it, one time after
another."""


class Recovery:
    """Knows a run's checkpoints and what to restore from them. Belongs to the mesh's event loop."""

    def __init__(self, config: RunConfig, mesh: Mesh, loop: TrainingLoop) -> None:
        self._config, self._mesh, self._loop = config, mesh, loop
        self._saved: list[Path] = []
        # A process of the learner begins with the weights of step 0, so that these two are a state.
        self._start_state = loop.state_dict()
        self._lock, self._times = asyncio.Lock(), 0

    def remember(self, folder: Path, older: Sequence[Path] | None = None) -> None:
        """As the newest checkpoint, which a learner that is lost is restored from.

        ``older`` ones, oldest first, are what is left should it be damaged by then; None: those
        that are known.
        """
        known = self._saved if older is None else [path.absolute() for path in older]
        self._saved = [path for path in known if path != folder] + [folder]

    async def surviving(self, work: Callable[[], Awaitable[T]]) -> T:
        """What ``work`` returns, which is begun again once what was lost under it is restored."""
        pauses = iter(PAUSES_S)
        loss: Exception | None = None
        times = self._times
        while True:
            try:
                if loss is not None:
                    await self._restore_once(loss, times)
                times = self._times
                return await work()
            except (LearnerLost, WeightsError, RayTaskError) as error:
                if isinstance(error, RayTaskError) and not isinstance(error.cause, ObjectLostError):
                    raise
                pause_s = next(pauses, None)
                if pause_s is None:
                    raise
                log.warning("begun again in %g s: %s", pause_s, error)
                await asyncio.sleep(pause_s)
                loss = error

    async def _restore_once(self, error: Exception, times: int) -> None:
        """Unless other work that met the same loss has done so since there were ``times``."""
        async with self._lock:
            if self._times == times:
                await self._restore(error)
                self._times += 1

    async def _restore(self, error: Exception) -> None:
        """Other ranks where one was lost, or the weights again that a registry died with.

        A runner may be the first to see either death: as weights that it cannot fetch. A group that
        was lost with its node before the learner had read it is only sampled again.
        """
        if isinstance(error, RayTaskError):
            return
        loss = error if isinstance(error, LearnerLost) else await self._learner_loss()
        if loss is not None:
            await self.revive(loss)
            return
        manifest = self._loop.manifest
        # Asked also where nothing was to be there yet: the next publication needs it.
        if not await self._mesh.has_weights(0 if manifest is None else manifest.version):
            log.warning("the weight registry was lost; weights are published again")
        self._loop.manifest = None

    async def _learner_loss(self) -> LearnerLost | None:
        """Why the learner is lost, if it is."""
        limit_s = self._config.deadlines.ping_s
        try:
            await asyncio.wait_for(self._mesh.learner.status(), limit_s)
        except LearnerLost as loss:
            return loss
        except TimeoutError:
            return LearnerLost(
                f"a rank of the learner must say within deadlines.ping_s ({limit_s:g} s) that it "
                "lives, one did not; the ranks are started again from the last checkpoint"
            )
        return None

    async def revive(self, error: LearnerLost) -> None:
        """Another learner from the newest whole checkpoint, and the loop back to where that was
        taken; from the start of the run where nothing was saved yet.
        """
        saved = [folder for folder in reversed(self._saved) if folder.is_dir()]
        log.warning("the learner was lost; restoring %s", saved[0] if saved else "its start")
        await self._mesh.restart_learner()
        if not self._saved:
            await self._loop.close()
            RunFolder(self._config.folder).keep_verdicts(0)
            self._loop.load_state_dict(self._start_state)
            return
        for folder in saved:
            try:
                await self.load(folder, read_state(folder))
            except CheckpointError as damage:
                log.warning("a checkpoint is passed over: %s", damage)
            else:
                return
        raise LearnerLost(
            f"{error} None of the {len(self._saved)} checkpoints that this process knows is "
            f"whole any more (the newest: {self._saved[-1]}): look for an older one with --resume"
        ) from error

    async def load(self, folder: Path, content: Mapping[str, Any]) -> None:
        """Put learner and loop where a checkpoint was taken."""
        await self._loop.close()
        # Before a step is taken again: its pictures are to have the verdicts that it recorded.
        RunFolder(self._config.folder).keep_verdicts(content["loop"]["step"])
        await self._mesh.learner.load(str(folder / LEARNER))
        self._loop.load_state_dict(content["loop"])
