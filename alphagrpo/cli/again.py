"""How a run is asked for again: to go on, to go further, or under another name.

Messages name the whole command, with the settings the run was asked for with: a run that is resumed
without them is another run.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from alphagrpo.errors import ConfigError
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.summary import trained_s

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig

ASKED_BY = "ALPHAGRPO_ASKED_BY"
"""Environment variable: the command that takes this one's options, such as ``make demo DEMO_ARGS``,
where it is not the user who called it.
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What ``alphagrpo train`` was asked for."""

    config: Path
    overrides: tuple[str, ...] = ()

    def again(self, *settings: str, resume: bool = False) -> str:
        """The command that asks for the same, but with these settings; to be copied from a line."""
        replaced = {_key(setting) for setting in settings}
        kept = [setting for setting in self.overrides if _key(setting) not in replaced]
        words = ["--resume"] if resume else []
        words += [word for setting in (*kept, *settings) for word in ("--set", setting)]
        if front := os.environ.get(ASKED_BY):
            return f"`{front}={shlex.quote(shlex.join(words))}`"
        return f"`{shlex.join(['alphagrpo', 'train', str(self.config), *words])}`"


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a run is finished."""

    reason: str
    further: tuple[str, ...]
    """Settings with which it would go on."""


def ending(folder: RunFolder, config: RunConfig) -> Ending | None:
    """What has ended the run in ``folder``; None while there is something left to do for it, and
    where a line of its figures is broken, which whoever resumes it is told.
    """
    settings = config.training
    evaluated = config.evaluation.num_plain + config.evaluation.num_thought == 0
    try:
        metrics = folder.metrics()
        if not metrics or not (evaluated or folder.evaluation("after")):
            return None
    except ConfigError:
        return None
    steps, spent_s = int(metrics[-1]["step"]), trained_s(metrics)
    reasons, further = [], []
    if steps >= settings.num_steps:
        reasons.append(f"training.num_steps is {settings.num_steps}")
        further.append(f"training.num_steps={2 * steps}")
    if settings.max_minutes and spent_s >= 60 * settings.max_minutes:
        reasons.append(f"training.max_minutes is {settings.max_minutes:g}")
        further.append(f"training.max_minutes={2 * settings.max_minutes:g}")
    if not reasons:
        return None
    took = f"{steps} steps in {spent_s / 60:.1f} minutes"
    return Ending(f"{took}, {' and '.join(reasons)}", tuple(further))


def refuse_used(config: RunConfig, asked: Asked) -> None:
    """Raise ConfigError where a run has already written into the run's folder."""
    folder = RunFolder(config.folder)
    if not (folder.path / "config.yaml").is_file():
        folder.check_unused()
        return
    names = (f"{config.name}-{number}" for number in count(2))
    free = next(name for name in names if not (config.output / name).exists())
    fresh = asked.again(f"name={free}")
    if end := ending(folder, config):
        raise ConfigError(
            f"a run needs a folder of its own, {folder.path} already holds one that is finished "
            f"({end.reason}; its report is {folder.report_path}); train it further with "
            f"{asked.again(*end.further, resume=True)}, or start another with {fresh}"
        )
    raise ConfigError(
        f"a run needs a folder of its own, {folder.path} already holds one; continue it with "
        f"{asked.again(resume=True)}, or start another with {fresh}"
    )


def _key(setting: str) -> str:
    return setting.partition("=")[0]
