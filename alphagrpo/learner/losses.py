"""The losses of one group, made and backpropagated one after another.

Legend of shapes: G sample, L sampled token, K trained SDE step.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from alphagrpo.algorithms.combine import loss_weights
from alphagrpo.algorithms.image import image_kl, image_loss
from alphagrpo.algorithms.objective import Objective
from alphagrpo.algorithms.text import text_loss
from alphagrpo.config import RunConfig
from alphagrpo.learner.diagnostics import Diagnostics
from alphagrpo.models.lora import disabled
from alphagrpo.models.unified import UnifiedModel
from alphagrpo.policy.recipe import Recipe
from alphagrpo.policy.replay import GroupReplay, replay_group
from alphagrpo.types import Group

SUM = 1.0
"""Losses are sums over samples: the step's sum is divided by its denominator in the end."""


class GroupLosses:
    """Replays groups of ``model`` and leaves their gradients in its parameters."""

    def __init__(self, model: UnifiedModel, config: RunConfig) -> None:
        self._model, self._config = model, config
        self._module = cast(nn.Module, model)

    def backpropagate(
        self,
        group: Group,
        advantages: Tensor,
        sample_weights: Tensor,
        noted: Diagnostics,
        *,
        counts: bool = True,
    ) -> None:
        """Add the gradient of all losses of ``group``, summed over its samples.

        One text backward, then one per window step, so that at most one forward is held at a time.
        Rounds of a refinement are backpropagated one after another: each begins from constants.

        Args:
            group: as sampled and scored.
            advantages: [G].
            sample_weights: [G]; 0 leaves a sample out.
            noted: what is watched.
            counts: False for a rank that only keeps step with others: its gradient is times 0.
        """
        algorithm, recipe = self._config.algorithm, Recipe.of(self._config, group.job.task)
        samples = float(sample_weights.sum()) / recipe.rounds
        for index in range(recipe.rounds):
            replay = replay_group(self._model, group, self._config, index)
            device = replay.latents.device
            own, keep = advantages.to(device), sample_weights.to(device)
            factors = loss_weights(
                replay.num_steps, recipe.text_weight, thinking=replay.thoughts is not None
            )
            if replay.thoughts is not None:
                text = self._text(replay, own, keep)
                if factors.text > 0:
                    add_gradients(factors.text / recipe.rounds * text.loss, counts)
                noted.add("text", text, samples)
                noted.add_entropy(replay.thoughts, keep)
            if algorithm.image.enabled:
                replay = replay.for_pictures()
                for k in range(replay.num_steps):
                    image = self._image(replay, k, own, keep)
                    add_gradients(factors.image / recipe.rounds * image.loss, counts)
                    noted.add("image", image, samples / replay.num_steps)

    def _text(self, replay: GroupReplay, advantages: Tensor, keep: Tensor) -> Objective:
        settings, thoughts = self._config.algorithm.text, replay.thoughts
        assert thoughts is not None, "called for runs that think"
        assert replay.old_text is not None, "recorded with every thought"
        reference = None
        if settings.kl_weight > 0:
            with torch.no_grad(), disabled(self._module):
                reference = replay.read_again(self._model).log_probs
        return text_loss(
            thoughts.log_probs,
            replay.old_text,
            thoughts.mask,
            advantages,
            level=settings.level,
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            kl_weight=settings.kl_weight,
            ref_log_probs=reference,
            importance_cap=self._config.algorithm.importance_cap,
            sample_weight=keep,
            denominator=SUM,
        )

    def _image(self, replay: GroupReplay, k: int, advantages: Tensor, keep: Tensor) -> Objective:
        settings = self._config.algorithm.image
        transition = replay.image_step(self._model, k)
        kl = None
        if settings.kl_weight > 0:
            with torch.no_grad(), disabled(self._module):
                reference = replay.image_step(self._model, k)
            kl = image_kl(transition.mean, reference.mean, transition.std)
        return image_loss(
            transition.log_prob,
            replay.old_image[:, k],
            advantages,
            clip=settings.clip,
            clamp=settings.advantage_clamp,
            kl=kl,
            kl_weight=settings.kl_weight,
            importance_cap=self._config.algorithm.importance_cap,
            sample_weight=keep,
            denominator=SUM,
        )


def add_gradients(loss: Tensor, counts: bool) -> None:
    """Backward, of a rank that only keeps step (``counts`` False) with the loss times 0."""
    (loss if counts else loss * 0).backward()  # type: ignore[no-untyped-call]
