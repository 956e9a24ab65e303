"""The policy in this process: for single pictures and evaluations that need no cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphagrpo.errors import ConfigError
from alphagrpo.policy.family import FAMILY, check_picture_size
from alphagrpo.record.manifest import find_learner

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.config import RunConfig
    from alphagrpo.ports import GroupReport, Picture, PictureRequest
    from alphagrpo.types import GivenImage, QuestionSet, RolloutJob


class LocalPolicy:
    """Draws pictures here; stands in for a rollout pool where nothing is trained."""

    def __init__(self, config: RunConfig, checkpoint: Path | None = None) -> None:
        check_picture_size(config.task, FAMILY.check(config.model.folder))
        import torch

        from alphagrpo.policy.checkpoint import load_weights
        from alphagrpo.policy.devices import check_pictures_device
        from alphagrpo.policy.loading import load_policy
        from alphagrpo.policy.worker import RolloutWorker

        torch.set_num_threads(config.rollout.threads)
        check_pictures_device(config, "this process")
        policy = load_policy(config)
        self._config = config
        self._worker = RolloutWorker(policy.model, policy.tokenizer, config)
        if checkpoint is not None:
            load_weights(self._worker.parameters, learner_folder(checkpoint))

    @property
    def model(self) -> Any:
        """The loaded model, with the checkpoint's weights."""
        return self._worker.model

    @property
    def tokenizer(self) -> Any:
        """The model's own tokenizer."""
        return self._worker.tokenizer

    @property
    def size(self) -> int:
        """One group at a time."""
        return 1

    async def roll_out(
        self, job: RolloutJob, questions: QuestionSet, *, keep_pictures: int = 0
    ) -> GroupReport:
        """Not offered: training needs a scored pool."""
        raise ConfigError(f"group {job.prompt.id} cannot be trained on here; use `alphagrpo train`")

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        """Draw pictures with the loaded weights, whatever their version."""
        return await asyncio.to_thread(self._worker.draw, requests)

    def encode(self, pixels: NDArray[np.uint8]) -> GivenImage:
        """A picture [H, W, 3] from outside as what an edit or a refinement begins from.

        Raises BadImage where it is not of the run's size.
        """
        from alphagrpo.policy.starts import encode_start

        return encode_start(self._worker.model, pixels, self._config.task)


def learner_folder(checkpoint: Path) -> Path:
    """Where a run's checkpoint keeps the learner; ConfigError where there is none."""
    if folder := find_learner(checkpoint):
        return folder
    raise ConfigError(
        f"a checkpoint must hold learner.json, {checkpoint} does not; give a folder such as "
        "runs/<name>/checkpoints/step-000040"
    )
