"""A run's checkpoints on disk: which are whole, which one a run goes on from, which may go.

::

    checkpoints/
      step-000040/     a checkpoint (:mod:`alphagrpo.record.manifest` says whether it is whole)
      damaged/         moved here by a resumed run, with a warning; counted and deleted by nobody
      later/           whole ones of steps after the one that a run was resumed from

All else in the folder is the user's and left alone, whatever its name.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from alphagrpo.errors import CheckpointError, ConfigError
from alphagrpo.files import make_folder, needing_room, sync_folder, write_atomically
from alphagrpo.record.manifest import (
    COMPLETE,
    STEP_PREFIX,
    UNFINISHED,
    is_complete,
    is_unfinished,
    problem,
    step_of,
    write_manifest,
)

log = logging.getLogger(__name__)

SAVE_ATTEMPTS = 3
"""How often in a row a learner may die while a checkpoint is written."""
DAMAGED, LATER = "damaged", "later"
NAME = re.compile(rf"{STEP_PREFIX}\d{{6,}}")


class Damaged(NamedTuple):
    """A checkpoint that cannot be resumed from."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a run goes on."""

    checkpoint: Path | None
    """None: from the model as it is, before the first step."""
    step: int
    damaged: tuple[Damaged, ...] = ()
    """Newer ones, which are passed over."""

    def warnings(self) -> list[str]:
        """What the user must know, a line for each damaged checkpoint."""
        return [
            f"checkpoint {path.name} is passed over, and moved to {path.parent / DAMAGED}: {why}"
            for path, why in self.damaged
        ]


class Checkpoints:
    """The checkpoints below a folder, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def folders(self) -> list[Path]:
        """All of a checkpoint's name, whole or not, oldest first."""
        if not self.path.is_dir():
            return []
        named = [path for path in self.path.iterdir() if NAME.fullmatch(path.name)]
        return sorted((path for path in named if path.is_dir()), key=step_of)

    def complete(self) -> list[Path]:
        """Those to which everything was written, oldest first; their bytes are not looked at."""
        return [path for path in self.folders() if is_complete(path)]

    @contextmanager
    def writing(self, step: int) -> Iterator[Path]:
        """A folder to save into; it counts only if the block ends without an error.

        It is marked and not renamed when it is whole, so that whoever has its path may keep it.
        What an error leaves of it is removed. Raises DiskFull where there is no room.
        """
        path = self.path / f"{STEP_PREFIX}{step:06d}"
        if is_unfinished(path):
            shutil.rmtree(path)
        elif path.exists():
            self._set_aside(path, DAMAGED)
        with needing_room(path):
            make_folder(path)
        try:
            write_atomically(path / UNFINISHED, "")
            yield path
            write_manifest(path, step)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        (path / UNFINISHED).unlink()

    def prune(self, keep: int) -> None:
        """Remove all but the ``keep`` newest, of which those that lack a part count as none."""
        sound = [path for path in self.complete() if not problem(path, sizes_only=True)]
        for path in sound[:-keep]:
            # From here on it is an unfinished one, wherever this process is killed.
            (path / COMPLETE).replace(path / UNFINISHED)
            shutil.rmtree(path)

    def find(self, step: int | None = None) -> ResumePoint:
        """The newest whole checkpoint, or that of ``step``: all bytes of it are read and compared.

        Nothing is changed. Raises ConfigError where there is none of ``step``, and CheckpointError
        where that one, or every one, is damaged.
        """
        if step is not None:
            return self._of_step(step)
        damaged: list[Damaged] = []
        for path in reversed(self.folders()):
            if is_unfinished(path):
                continue
            why = problem(path)
            if not why:
                return ResumePoint(path, step_of(path), tuple(damaged))
            damaged.append(Damaged(path, why))
        if complete := self.complete():
            raise CheckpointError(
                f"a run goes on from a whole checkpoint, all {len(complete)} in {self.path} are "
                f"damaged ({'; '.join(why for _, why in damaged)}); put one back from a copy, or "
                "begin the run again with --resume 0"
            )
        return ResumePoint(None, 0, tuple(damaged))

    def _of_step(self, step: int) -> ResumePoint:
        found = {step_of(path): path for path in self.complete()}
        there = f"it has those of steps {', '.join(map(str, found))}" if found else "it has none"
        path = found.get(step)
        why = "" if path is None else problem(path)
        if path is not None and not why:
            return ResumePoint(path, step)
        if step == 0:  # the weights of step 0 are the model's own
            return ResumePoint(None, 0, (Damaged(path, why),) if path else ())
        if path is None:
            raise ConfigError(
                f"--resume STEP must name a checkpoint in {self.path}, got {step}; {there}"
            )
        raise CheckpointError(f"--resume {step} needs a whole checkpoint: {why} ({there})")

    def settle(self, point: ResumePoint) -> None:
        """Make ``point`` the newest: damaged ones and later ones are moved aside.

        What a killed process had begun is removed.
        """
        for path, _ in point.damaged:
            self._set_aside(path, DAMAGED)
        for path in self.folders():
            if is_unfinished(path):
                shutil.rmtree(path)
            elif step_of(path) > point.step:
                self._set_aside(path, LATER)

    def _set_aside(self, path: Path, name: str) -> None:
        shelf = self.path / name
        with needing_room(shelf):
            make_folder(shelf)
            target, number = shelf / path.name, 2
            while target.exists():
                target, number = shelf / f"{path.name}-{number}", number + 1
            path.rename(target)
            sync_folder(shelf)
            sync_folder(self.path)
        log.info("%s was moved to %s", path, target)
