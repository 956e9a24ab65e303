"""The plain learner: replays groups, takes one GRPO step, exports weights.

Legend of shapes: P group, G sample, L sampled token, K trained SDE step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Literal, cast

import torch
from torch import Tensor, nn

from alphagrpo.algorithms import (
    Objective,
    image_kl,
    image_loss,
    loss_weights,
    step_advantages,
    text_loss,
)
from alphagrpo.config import RunConfig
from alphagrpo.errors import ConfigError, PolicyDataError
from alphagrpo.learner import checks
from alphagrpo.learner.backward import Term, backpropagate
from alphagrpo.learner.diagnostics import Diagnostics
from alphagrpo.learner.optimizer import MasterAdamW
from alphagrpo.learner.replay import GroupReplay, replay_group
from alphagrpo.models import weights
from alphagrpo.models.lora import disabled, trainable_parameters
from alphagrpo.models.unified import UnifiedModel
from alphagrpo.ports import UpdateReport
from alphagrpo.rollout.recipe import Recipe
from alphagrpo.types import Group, WeightsManifest


class GRPOLearner:
    """Owns the trainable parameters of ``model`` and their optimizer.

    Example::

        learner = GRPOLearner(model, config)
        manifest, chunks = learner.export()      # version 0
        report = learner.update(groups)          # groups drawn and scored with version 0
    """

    def __init__(self, model: UnifiedModel, config: RunConfig) -> None:
        self.model, self.config = model, config
        self.module = cast(nn.Module, model)
        model.set_recompute(config.learner.recompute)
        self.parameters = trainable_parameters(self.module, config.model.trainable)
        self.optimizer = MasterAdamW(self.parameters, config.optimizer)
        self.step = 0
        self.version = -1
        self.visits: dict[str, int] = {}
        """Last visit of each prompt that was trained on; none is trained on twice."""
        self._changed = True
        at_once = config.learner.groups_at_once
        # Kept from step to step: malloc has an arena per thread, and threads that are new each time
        # spread over all its arenas, which took a gigabyte more.
        self._threads = ThreadPoolExecutor(at_once, "backward") if at_once > 1 else None
        algorithm = config.algorithm
        self._kl = algorithm.text.kl_weight > 0 or algorithm.image.kl_weight > 0
        if self._kl and config.model.trainable != "lora":
            raise ConfigError(
                "a KL term needs a reference, which is the model without its adapters; got "
                f"model.trainable {config.model.trainable!r}: set it to lora or the KL weights to 0"
            )

    def update(self, groups: Sequence[Group]) -> UpdateReport:
        """One GRPO step on scored groups (AlphaGRPO, objective; method: section 1.2).

        Per group one text backward, then one backward per window step, so that at most one forward
        is held at a time (``learner.groups_at_once``, on a CPU). Nothing has changed where this
        raises.

        Raises:
            PolicyDataError: for groups that are stale, unscored, not finite, or trained before.
            ParityError: before the first step, where replay and rollout disagree.
        """
        started = perf_counter()
        checks.refuse_unfit(groups, self.version, self.config, self.visits)
        groups = [part for group in groups for part in (group.draft_group, group) if part]
        rewards, valid = _rewards(groups)
        advantages = step_advantages(
            rewards,
            valid,
            [group.job.task for group in groups],
            std=self.config.algorithm.advantage_std,
            prompts=self.config.algorithm.advantage_prompts,
            epsilon=self.config.algorithm.advantage_epsilon,
        )
        diagnostics = Diagnostics(rewards[valid], advantages.values[valid])
        skipped = not bool(advantages.values.any()) and not self._kl
        if not skipped:
            self.optimizer.zero_grad()
            total = float(advantages.weights.sum())
            backpropagate(
                [
                    partial(self._terms, group, values, sample_weights, total)
                    for group, values, sample_weights in zip(
                        groups, advantages.values, advantages.weights, strict=True
                    )
                    if self._kl or bool(values.any())
                ],
                list(self.parameters.values()),
                diagnostics,
                self._threads,
            )
            if self.step == 0:
                checks.parity_gate(diagnostics, self.config)
            self._apply(diagnostics)
        self.visits.update((group.job.prompt.id, group.job.visit) for group in groups)
        metrics = diagnostics.metrics() | {
            "learner/skipped": float(skipped),
            "learner/step": float(self.step),
            "learner/update_s": perf_counter() - started,
            "learner/lag": float(self.version - min(g.job.policy_version for g in groups)),
        }
        return UpdateReport(step=self.step, skipped=skipped, metrics=metrics)

    def export(self) -> tuple[WeightsManifest, tuple[weights.Chunk, ...]]:
        """The parameters as bytes, under a new version if they changed since the last export."""
        if self._changed:
            self.version, self._changed = self.version + 1, False
        kind: Literal["lora", "full"] = "lora" if self.config.model.trainable == "lora" else "full"
        return weights.flatten(self.parameters, version=self.version, kind=kind)

    def mark_exported(self) -> None:
        """After a restore: the parameters are those of :attr:`version`, which is exported again."""
        self._changed = self.version < 0

    def _terms(
        self, group: Group, advantages: Tensor, sample_weights: Tensor, total: float
    ) -> Iterator[Term]:
        """The losses of one group; ``total`` samples share the step's mean.

        Rounds of a refinement are backpropagated one after another: each begins from constants.
        """
        algorithm, recipe = self.config.algorithm, Recipe.of(self.config, group.job.task)
        share = float(sample_weights.sum()) / total / recipe.rounds
        for index in range(recipe.rounds):
            replay = replay_group(self.model, group, self.config, index)
            device = replay.latents.device
            own, keep = advantages.to(device), sample_weights.to(device)
            factors = loss_weights(
                replay.num_steps, recipe.text_weight, thinking=replay.thoughts is not None
            )
            if replay.thoughts is not None:
                text = self._text(replay, own, keep, total)
                loss = factors.text / recipe.rounds * text.loss if factors.text > 0 else None
                yield Term(loss, partial(Diagnostics.add, part="text", objective=text, share=share))
                note = partial(
                    Diagnostics.add_entropy, thoughts=replay.thoughts, sample_weights=keep
                )
                yield Term(None, note)
            if algorithm.image.enabled:
                for k in range(replay.num_steps):
                    image = self._image(replay, k, own, keep, total)
                    each = share / replay.num_steps
                    note = partial(Diagnostics.add, part="image", objective=image, share=each)
                    yield Term(factors.image / recipe.rounds * image.loss, note)

    def _text(
        self, replay: GroupReplay, advantages: Tensor, keep: Tensor, total: float
    ) -> Objective:
        settings, thoughts = self.config.algorithm.text, replay.thoughts
        assert thoughts is not None, "called for runs that think"
        assert replay.old_text is not None, "recorded with every thought"
        reference = None
        if settings.kl_weight > 0:
            with torch.no_grad(), disabled(self.module):
                reference = replay.read_again(self.model).log_probs
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
            sample_weight=keep,
            denominator=total,
        )

    def _image(
        self, replay: GroupReplay, k: int, advantages: Tensor, keep: Tensor, total: float
    ) -> Objective:
        settings = self.config.algorithm.image
        transition = replay.image_step(self.model, k)
        kl = None
        if settings.kl_weight > 0:
            with torch.no_grad(), disabled(self.module):
                reference = replay.image_step(self.model, k)
            kl = image_kl(transition.mean, reference.mean, transition.std)
        return image_loss(
            transition.log_prob,
            replay.old_image[:, k],
            advantages,
            clip=settings.clip,
            clamp=settings.advantage_clamp,
            kl=kl,
            kl_weight=settings.kl_weight,
            sample_weight=keep,
            denominator=total,
        )

    def _apply(self, diagnostics: Diagnostics) -> None:
        norm = self.optimizer.step(self.step)
        if not math.isfinite(norm):
            raise PolicyDataError(
                f"gradients must be finite, the norm at step {self.step} is {norm}; no step was "
                "taken: lower optimizer.lr and resume from the last checkpoint"
            )
        diagnostics.grad_norm, diagnostics.learning_rate = norm, self.optimizer.learning_rate
        self.step += 1
        self._changed = True


def _rewards(groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """Rewards [P, G] in float64 (0 where there is none) and which are there."""
    table = [[math.nan if r is None else r for r in group.rewards] for group in groups]
    rewards = torch.tensor(table, dtype=torch.float64)
    valid = ~rewards.isnan()
    return torch.where(valid, rewards, 0.0), valid
