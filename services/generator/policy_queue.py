"""A policy that draws for many callers, and the checkpoints whose weights it follows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from alphagrpo.config import load_config
from alphagrpo.errors import CheckpointError, ConfigError, ServiceUnavailable
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.manifest import LEARNER_STATE, find_learner
from alphagrpo.rollout.generation_queue import GenerationQueue
from alphagrpo.shipped import locate
from services.generator.models import WeightsModel
from services.paths import project_root
from services.settings import GeneratorSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.policy.worker import RolloutWorker

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SignedPicture:
    """A picture and the weights that drew it."""

    picture: Picture
    weights: WeightsModel


class _SigningWorker:
    """Draws and signs with the weights in use; called in the drawing thread only."""

    def __init__(self, worker: RolloutWorker) -> None:
        self.worker = worker
        self.weights = WeightsModel(version=-1, source=str(worker.config.model.path))

    def draw(self, requests: Sequence[PictureRequest]) -> list[SignedPicture]:
        return [SignedPicture(picture, self.weights) for picture in self.worker.draw(requests)]

    def load(self, folder: Path) -> None:
        """Change all weights or none; CheckpointError where they cannot be used."""
        from alphagrpo.policy.checkpoint import load_weights

        version = load_weights(self.worker.parameters, folder)
        self.weights = WeightsModel(version=version, source=str(folder))


class PolicyQueue(GenerationQueue[SignedPicture]):
    """A generation queue whose weights are a checkpoint's, or the newest of a run folder.

    ``source`` names the folder; None draws with the model as it is. ``silence_s``: longer than any
    batch takes, after which the drawing thread is taken for hung.
    """

    def __init__(
        self, worker: RolloutWorker, source: str | None, *, silence_s: float, **limits: int
    ) -> None:
        self._signing = _SigningWorker(worker)
        super().__init__(self._signing, **limits)
        self.config, self.source = worker.config, source
        self._refused: set[tuple[Path, int]] = set()
        self._changing = asyncio.Lock()
        self._silence_s = silence_s
        self._busy_since: float | None = None
        self._broken = ""
        self.closed = False
        """See :class:`services.watching.Watched`, which this queue is."""
        self.alarm = asyncio.Event()

    @property
    def weights(self) -> WeightsModel:
        """Those that draw the next batch."""
        return self._signing.weights

    @property
    def model_name(self) -> str:
        """Last part of the base model's folder."""
        return Path(self.config.model.path).name

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every picture."""
        task = self.config.task
        return task.height, task.width

    def failure(self) -> str | None:
        """Why nothing can be drawn any more: the device failed, or the drawing thread hangs."""
        if self._broken and not self.closed:
            return f"the device of {self.model_name} has failed: {self._broken}"
        busy_s = 0.0 if self._busy_since is None else monotonic() - self._busy_since
        if busy_s > self._silence_s and not self.closed:
            return (
                f"the drawing thread of {self.model_name} is at one batch for {busy_s:.0f} s, no "
                f"request may take longer than deadline_s, {self._silence_s:g}"
            )
        return None

    async def between_batches(self, work: Callable[[], T]) -> T:
        """See :meth:`GenerationQueue.between_batches`; notes what :meth:`failure` tells."""
        try:
            return await super().between_batches(partial(self._timed, work))
        except Exception as error:
            if is_device_failure(error):
                self._broken = f"{type(error).__name__}: {error}"
                self.alarm.set()
                raise ServiceUnavailable(
                    f"the device of {self.model_name} must work, it failed with "
                    f"{self._broken}; its replica is being replaced, ask again"
                ) from None
            raise

    def _timed(self, work: Callable[[], T]) -> T:
        """In the drawing thread."""
        self._busy_since = monotonic()
        try:
            return work()
        finally:
            self._busy_since = None

    def close(self) -> None:
        """Draw no more."""
        self.closed = True
        super().close()

    async def refresh(self) -> bool:
        """Take newer weights if there are any; returns whether they changed.

        A checkpoint that cannot be read (damaged, half written, pruned meanwhile, of another model)
        is left alone and not read again; an older one that is newer than the weights in use is
        taken, else they stay.
        """
        if self.source is None:
            return False
        async with self._changing:
            try:
                for folder in self._candidates():
                    if await self._take(folder):
                        log.info("weights are now %s", self.weights)
                        return True
            except (ConfigError, OSError) as error:
                log.warning("weights of %s are not taken: %s", self.source, error)
        return False

    async def _take(self, folder: Path) -> bool:
        try:
            await self.between_batches(partial(self._signing.load, folder))
        except (ConfigError, OSError) as error:
            log.warning("weights of %s are not taken: %s", self.source, error)
            self._refuse(folder)
            return False
        return True

    def load_now(self) -> None:
        """Before anything is drawn: the newest whole weights, if the source has any yet.

        Raises CheckpointError where none of them can be used.
        """
        problem: ConfigError | None = None
        for folder in self._candidates():
            try:
                self._signing.load(folder)
                return
            except ConfigError as error:
                log.warning("weights of %s are not taken: %s", self.source, error)
                self._refuse(folder)
                problem = problem or error
        if problem is not None:
            raise problem

    def _candidates(self) -> list[Path]:
        """Learner's folders that are newer than the one in use, the newest first."""
        if self.source is None:
            return []
        newer = []
        for folder in saved_weights(project_root() / self.source):
            if str(folder) == self.weights.source:
                break
            if (folder, _changed_at(folder)) not in self._refused:
                newer.append(folder)
        return newer

    def _refuse(self, folder: Path) -> None:
        """Not to be read again as it is: that takes long, and ends the same way."""
        self._refused.add((folder, _changed_at(folder)))

    def encode(self, pixels: NDArray[np.uint8]) -> Any:
        """A picture from outside as what an edit begins from; BadImage for another size."""
        from alphagrpo.policy.starts import encode_start

        return encode_start(self._signing.worker.model, pixels, self.config.task)


def is_device_failure(error: BaseException) -> bool:
    """Whether an accelerator has failed for this process: all it is asked later fails too.

    Too little memory is no such failure: the next batch may fit.
    """
    import torch

    return isinstance(error, torch.AcceleratorError)


def saved_weights(folder: Path) -> list[Path]:
    """The learner's folder in a checkpoint, or those of a run folder's complete checkpoints, the
    newest first.

    Empty for a run without a checkpoint yet. Raises CheckpointError for any other folder.
    """
    if learner := find_learner(folder):
        return [learner]
    if (folder / "checkpoints").is_dir():
        return [path / "learner" for path in reversed(RunFolder(folder).checkpoints())]
    raise CheckpointError(
        f"weights are a checkpoint or the folder of a run, {folder} is neither; give runs/<name> "
        "or runs/<name>/checkpoints/step-<number>"
    )


def _changed_at(folder: Path) -> int:
    try:
        return (folder / LEARNER_STATE).stat().st_mtime_ns
    except OSError:
        return -1


def open_queue(settings: GeneratorSettings) -> PolicyQueue:
    """Load the policy of a generator's settings, with its newest weights.

    Raises ConfigError and CheckpointError for a config or a model that cannot be served.
    """
    import torch

    from alphagrpo.policy.devices import check_pictures_device
    from alphagrpo.policy.loading import load_policy
    from alphagrpo.policy.worker import RolloutWorker

    config = load_config(locate(settings.config, project_root()), list(settings.overrides))
    model = config.model.model_copy(update={"path": locate(config.model.path, project_root())})
    config = config.model_copy(update={"model": model})
    torch.set_num_threads(config.rollout.threads)
    check_pictures_device(config, "the generator")
    policy = load_policy(config)
    worker = RolloutWorker(policy.model, policy.tokenizer, config)
    queue = PolicyQueue(
        worker,
        settings.weights,
        silence_s=settings.deadline_s,
        max_batch=settings.max_batch,
        max_queued=settings.max_queued,
    )
    queue.load_now()
    return queue
