"""The plain learner: replays groups, takes one GRPO step, exports weights.

Legend of shapes: P group, G sample, L sampled token, K trained SDE step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from alphagrpo.algorithms.combine import loss_weights
from alphagrpo.algorithms.image import image_kl, image_loss
from alphagrpo.algorithms.objective import Objective
from alphagrpo.algorithms.text import text_loss
from alphagrpo.config import RunConfig
from alphagrpo.errors import ConfigError, PolicyDataError
from alphagrpo.learner import checks
from alphagrpo.learner.backward import Term, backpropagate
from alphagrpo.learner.diagnostics import Diagnostics
from alphagrpo.learner.optimizer import MasterAdamW
from alphagrpo.models import weights
from alphagrpo.models.lora import disabled
from alphagrpo.models.unified import UnifiedModel
from alphagrpo.policy.recipe import Recipe
from alphagrpo.policy.replay import GroupReplay, replay_group
from alphagrpo.policy.trainable import trainable_parameters
from alphagrpo.ports import TrainingBatch, TrainingGroup, UpdateReport
from alphagrpo.types import Group, WeightsKind, WeightsManifest


class GRPOLearner:
    """Owns the trainable parameters of ``model`` and their optimizer.

    Example::

        learner = GRPOLearner(model, config)
        manifest, chunks = learner.export()      # version 0
        report = learner.update(batch)           # groups generated and scored with version 0
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

    def update(self, batch: TrainingBatch) -> UpdateReport:
        """One GRPO step on scored groups (AlphaGRPO, objective; method: section 1.2).

        Per group one text backward, then one backward per window step, so that at most one forward
        is held at a time (``learner.groups_at_once``, on a CPU). Nothing has changed where this
        raises.

        Args:
            batch: each group itself in the place of its reference, and what its samples weigh.

        Raises:
            PolicyDataError: for groups that are stale, unscored, not finite, or trained before.
            ParityError: before the first step, where replay and rollout disagree.
        """
        started = perf_counter()
        checks.refuse_unfit(batch, self.version, self.config, self.visits)
        parts = [part for group in batch.groups for part in _parts(group)]
        advantages = torch.tensor([part.advantages for part in parts])
        weights = torch.tensor([part.weights for part in parts])
        valid = weights > 0
        diagnostics = Diagnostics(_rewards(parts)[valid], advantages[valid])
        skipped = not bool(advantages.any()) and not self._kl
        if not skipped:
            self.optimizer.zero_grad()
            backpropagate(
                [
                    partial(self._terms, part.group, values, sample_weights, batch.denominator)
                    for part, values, sample_weights in zip(parts, advantages, weights, strict=True)
                    if self._kl or bool(values.any())
                ],
                list(self.parameters.values()),
                diagnostics,
                self._threads,
            )
            if self.step == 0:
                checks.parity_gate(diagnostics, self.config)
            self._apply(diagnostics)
        jobs = [part.group.job for part in parts]
        self.visits.update((job.prompt.id, job.visit) for job in jobs)
        metrics = diagnostics.metrics() | {
            "learner/skipped": float(skipped),
            "learner/step": float(self.step),
            "learner/update_s": perf_counter() - started,
            "learner/lag": float(self.version - min(job.policy_version for job in jobs)),
        }
        return UpdateReport(step=self.step, skipped=skipped, metrics=metrics)

    def export(self) -> tuple[WeightsManifest, tuple[weights.Chunk, ...]]:
        """The parameters as bytes, under a new version if they changed since the last export."""
        if self._changed:
            self.version, self._changed = self.version + 1, False
        kind: WeightsKind = "lora" if self.config.model.trainable == "lora" else "full"
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


class _Part(NamedTuple):
    """A group with what its G samples weigh."""

    group: Group
    advantages: tuple[float, ...]
    weights: tuple[float, ...]


def _parts(group: TrainingGroup) -> Iterator[_Part]:
    """The trained drafts of a refinement, if any, and then the group itself."""
    whole: Group = group.reference
    if group.drafts is not None and whole.draft_group is not None:
        yield _Part(whole.draft_group, group.drafts.advantages, group.drafts.weights)
    yield _Part(whole, group.samples.advantages, group.samples.weights)


def _rewards(parts: Sequence[_Part]) -> Tensor:
    """Rewards [P, G] in float64; 0 where there is none."""
    table = [[reward or 0.0 for reward in part.group.rewards] for part in parts]
    return torch.tensor(table, dtype=torch.float64)
