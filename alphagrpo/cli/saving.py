"""When a run is saved, and what becomes of it where that fails."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from alphagrpo.cli.stopping import Stopped
from alphagrpo.errors import CheckpointError, LearnerLost
from alphagrpo.record.checkpoints import SAVE_ATTEMPTS
from alphagrpo.record.manifest import step_of

if TYPE_CHECKING:
    from actors.run import MeshRun
    from alphagrpo.cli.console import Narrator
    from alphagrpo.cli.stopping import StopSwitch
    from alphagrpo.record.folder import RunFolder
    from alphagrpo.record.summary import RunSummary


class Saving:
    """Writes a run's checkpoints."""

    def __init__(
        self,
        folder: RunFolder,
        mesh_run: MeshRun,
        stop: StopSwitch,
        narrator: Narrator,
        *,
        keep: int,
        summary: Callable[[], RunSummary],
    ) -> None:
        """``keep``: checkpoints that stay; ``summary``: of the run so far, written with each."""
        self._folder, self._mesh_run = folder, mesh_run
        self._stop, self._narrator = stop, narrator
        self._keep, self._summary = keep, summary
        self.took_s = 0.0
        """How long the last checkpoint took; 0 where this process has not written one."""
        self.recorded = mesh_run.step_number
        """The last step that is written down."""
        self._losses, self._unrecorded_s = 0, 0.0

    def spent(self) -> dict[str, float]:
        """``time/checkpoint_s``: seconds of saving since the last call; empty where there was none.

        They belong to the step after, as a line of metrics: a step is written down before the
        checkpoint that holds it.
        """
        seconds, self._unrecorded_s = self._unrecorded_s, 0.0
        return {"time/checkpoint_s": seconds} if seconds else {}

    def start(self) -> None:
        """A checkpoint of step 0: a learner that dies before the next one is put back to it."""
        if self._folder.newest_checkpoint() is None:
            self._mesh_run.manifest()
            self.save()

    def save(self) -> None:
        """Everything a resumed run needs, complete or not there.

        Where the learner dies meanwhile the run is put back to its newest whole checkpoint, from
        which its steps are taken again; a learner that dies each time ends the run.
        """
        with self._stop.step(self.took_s):
            self._save()

    def _save(self) -> None:
        step, begun = self._mesh_run.step_number, perf_counter()
        try:
            with self._folder.checkpoint(step) as path:
                self._mesh_run.save(path)
        except LearnerLost as error:
            self._losses += 1
            if self._losses == SAVE_ATTEMPTS or self._stop.pulled:
                raise
            self._go_back(step, error)
            return
        self.took_s, self._losses = perf_counter() - begun, 0
        self._unrecorded_s += self.took_s
        self._folder.prune_checkpoints(self._keep)
        self._folder.write_summary(self._summary())

    def _go_back(self, step: int, error: LearnerLost) -> None:
        self._mesh_run.revive(error)
        back = self._mesh_run.step_number
        self._narrator.say(
            f"the learner was lost while the checkpoint of step {step} was written; the run goes "
            f"on after step {back}, and what was recorded after it is dropped"
        )
        self._folder.rewind(back)
        self.recorded = back
        if back == 0:
            self.start()

    def keep_what_is_whole(self) -> None:
        """A checkpoint of the last step that was written down, where the grace allows.

        Where it cannot be had the run goes on from an older one: no error, all steps since are
        taken again.
        """
        newest = self._folder.newest_checkpoint()
        kept = 0 if newest is None else step_of(newest)
        if self.recorded <= kept:
            return
        try:
            if self.recorded < self._mesh_run.step_number:
                raise CheckpointError(f"step {self.recorded + 1} was not written down")
            self.save()
        except Stopped:
            self._narrator.say(f"no time for a checkpoint; --resume goes on after step {kept}")
        except Exception as error:
            self._narrator.say(f"no checkpoint: {error}; --resume goes on after step {kept}")
