"""The plain learner: replays groups, takes one GRPO step, exports weights.

It is a learner of its own, or one of several ranks (:mod:`alphagrpo.learner.ranked`) that replay
different groups of a step and take the same step on what they summed together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import cast

import torch
from torch import Tensor, nn

from alphagrpo.config import RunConfig
from alphagrpo.errors import ConfigError, LearnerLost, PolicyDataError
from alphagrpo.learner.checks import Turn, refuse_unfit, turn_of
from alphagrpo.learner.diagnostics import Diagnostics
from alphagrpo.learner.exchange import Alone, Exchange
from alphagrpo.learner.gradients import GradientSum, divided, taken_gradients
from alphagrpo.learner.losses import GroupLosses
from alphagrpo.learner.notes import GroupNotes
from alphagrpo.learner.optimizer import MasterAdamW
from alphagrpo.learner.sharding import Shards, form_of, shard_layers
from alphagrpo.learner.steps import (
    LearnerState,
    Part,
    StepEnd,
    StepTaken,
    step_end,
    update_report,
)
from alphagrpo.models import weights
from alphagrpo.models.unified import UnifiedModel
from alphagrpo.policy.devices import recomputed_here
from alphagrpo.policy.trainable import trainable_parameters
from alphagrpo.training import SampleWeights, TrainingBatch, TrainingGroup, UpdateReport
from alphagrpo.types import Group, WeightsKind, WeightsManifest


class GRPOLearner:
    """Owns the trainable parameters of ``model`` and their optimizer.

    Example::

        learner = GRPOLearner(model, config)
        manifest, chunks = learner.export()      # version 0
        report = learner.update(batch)           # groups generated and scored with version 0

    :meth:`update` is a whole step. What it does can be done group by group, while others of the
    step are still drawn: :meth:`begin`, :meth:`accumulate`, :meth:`finish`.
    """

    def __init__(
        self, model: UnifiedModel, config: RunConfig, exchange: Exchange | None = None
    ) -> None:
        """``exchange`` is the line to other ranks; default none."""
        self.model, self.config = model, config
        self.exchange: Exchange = exchange or Alone()
        self.module = cast(nn.Module, model)
        device = next(self.module.parameters()).device
        self.recomputed = recomputed_here(config, device)
        """Layers that recompute their activations, or more than there are where all do."""
        model.set_recompute(self.recomputed)
        self.parameters: dict[str, nn.Parameter] = {}
        self.shards: Shards | None = None
        if not config.sharded:
            self._hold_parameters()
        self.step = 0
        self.version = -1
        self.visits: dict[str, int] = {}
        """Last visit of each prompt that was trained on; none is trained on twice."""
        self._losses = GroupLosses(model, config)
        self._sum = GradientSum()
        self._taken: set[Turn] = set()
        self._changed = True
        if config.algorithm.has_kl and config.model.trainable != "lora":
            raise ConfigError(
                "a KL term needs a reference, which is the model without its adapters; got "
                f"model.trainable {config.model.trainable!r}: set it to lora or the KL weights to 0"
            )

    def _hold_parameters(self) -> None:
        self.parameters = trainable_parameters(self.module, self.config.model.trainable)
        self.optimizer = MasterAdamW(self.parameters, self.config.optimizer, self.shards)

    def shard(self) -> None:
        """Keep a share of the experts, once all ranks are together; each of them must be called."""
        self.shards = shard_layers(self.module)
        self._hold_parameters()

    def update(self, batch: TrainingBatch) -> UpdateReport:
        """One GRPO step on scored groups (AlphaGRPO, objective; method: section 1.2).

        Nothing has changed where this raises.

        Args:
            batch: each group itself in the place of its reference, and what its samples weigh.

        Raises:
            PolicyDataError: for groups that are stale, unscored, not finite, or trained before.
            ParityError: before the first step, where replay and rollout disagree.
        """
        state = self.begin()
        notes = self.accumulate(batch.groups)
        end, figures = step_end(notes, batch.denominator, state, self.config)
        return update_report([notes], [self.finish(end)], figures)

    def begin(self) -> LearnerState:
        """Forget what was summed for a step that was not taken."""
        self._sum.take()
        taken_gradients(list(self.parameters.values()))
        self._taken.clear()
        return LearnerState(step=self.step, version=self.version)

    def accumulate(self, groups: Sequence[TrainingGroup]) -> list[GroupNotes]:
        """Replay groups of a step and add up their gradients; no parameter changes.

        Args:
            groups: each group itself in the place of its reference.

        Returns:
            what there is to note of each.

        Raises:
            PolicyDataError: as :meth:`update`.
        """
        notes = []
        for training in groups:
            refuse_unfit(training, self.version, self.config, self.visits, self._taken)
            notes.append(self._replay(training))
        return notes

    def settle(self, below: int) -> None:
        """All groups at places below were replayed here, or will never be: add them up."""
        self._sum.settle(below)

    def finish(self, end: StepEnd) -> StepTaken:
        """The optimizer step on what all ranks have summed; each of them must be called.

        Raises:
            PolicyDataError: where the gradient is not finite; no step was taken.
            LearnerLost: where the other ranks do not arrive.
        """
        started = perf_counter()
        figures = {}
        own = self._sum.take()
        if end.teaches:
            parameters = list(self.parameters.values())
            # Shares of gradients were summed over the ranks by each backward.
            summed = own if self.shards and own else self.exchange.sum(own, parameters)
            norm = self.optimizer.step(self.step, divided(summed, end.denominator))
            if not math.isfinite(norm):
                raise PolicyDataError(
                    f"gradients must be finite, the norm at step {self.step} is {norm}; no step "
                    "was taken: lower optimizer.lr and resume from the last checkpoint"
                )
            self.step += 1
            self._changed = True
            figures["learner/grad_norm"] = norm
        figures["learner/learning_rate"] = self.optimizer.learning_rate
        self.visits.update(end.visits)
        self._taken.clear()
        return StepTaken(step=self.step, seconds=perf_counter() - started, figures=figures)

    def export(self) -> tuple[WeightsManifest, tuple[weights.Chunk, ...]]:
        """The parameters as bytes, under a new version if they changed since the last export.

        Where they are sharded all ranks gather them one by one; those but the first keep no bytes.
        """
        self._number()
        kind: WeightsKind = "lora" if self.config.model.trainable == "lora" else "full"
        chunks: list[weights.Chunk] = []
        packer = weights.Packer(chunks.append)
        for name, tensor in self._whole_parameters():
            if self.shards is None or self.shards.rank == 0:
                packer.add(name, tensor)
        return packer.close(version=self.version, kind=kind), tuple(chunks)

    def _whole_parameters(self) -> Iterable[tuple[str, Tensor]]:
        return self.parameters.items() if not self.shards else self.shards.gathered(self.parameters)

    def follow(self, manifest: WeightsManifest, check: bool) -> None:
        """Have the version that rank 0 published.

        Raises:
            LearnerLost: where it has another number, or ``check`` finds other bytes.
        """
        self._number()
        own = self.export()[0] if check else None
        if self.version != manifest.version or (own and own.checksum != manifest.checksum):
            raise LearnerLost(
                "all ranks of the learner must hold the same parameters, after step "
                f"{self.step} one has version {self.version}"
                f"{f' with checksum {own.checksum[:12]}' if own else ''}, rank 0 "
                f"{manifest.version} with {manifest.checksum[:12]}; the ranks are started again "
                "from the last checkpoint"
            )

    def _number(self) -> None:
        """Give the parameters a new version if they changed since the last."""
        if self._changed:
            self.version, self._changed = self.version + 1, False

    def mark_exported(self) -> None:
        """After a restore: the parameters are those of :attr:`version`, which is exported again."""
        self._changed = self.version < 0

    def _replay(self, training: TrainingGroup) -> GroupNotes:
        """Its gradient into the step's sum. One that teaches nothing is not replayed."""
        started = perf_counter()
        noted, replayed = Diagnostics(), False
        for group, weighed in _parts(training):
            if self.config.algorithm.has_kl or any(weighed.advantages):
                self._backpropagate(group, weighed, noted)
                replayed = True
        if replayed:
            self._sum.add(training.place, taken_gradients(list(self.parameters.values())))
        self._taken.add(turn_of(training.reference))
        return _notes(training, _parts(training), noted, perf_counter() - started)

    def check(self, training: TrainingGroup) -> None:
        """Raise what :meth:`accumulate` would, before ranks that keep step begin a round."""
        refuse_unfit(training, self.version, self.config, self.visits, self._taken)

    def keep_step(
        self, training: TrainingGroup, part: Part, number: int, counts: bool
    ) -> GroupNotes:
        """Replay one part of a group in a round that all ranks take together.

        Args:
            training: with the group itself in the place of its reference.
            part: its samples, or the drafts that train with them.
            number: of the round in its step.
            counts: False where another rank replays it too.
        """
        assert self.shards is not None, "ranks keep step where layers are sharded"
        started, noted = perf_counter(), Diagnostics()
        chosen = [_parts(training)[-1 if part == "samples" else 0]]
        ((group, weighed),) = chosen
        self.shards.keep_step(form_of(group))
        self._backpropagate(group, weighed, noted, counts=counts)
        self._sum.add(number, taken_gradients(list(self.parameters.values())))
        self._sum.settle(number + 1)
        if counts and part == "samples":
            self._taken.add(turn_of(training.reference))
        return _notes(training, chosen, noted, perf_counter() - started)

    def _backpropagate(
        self, group: Group, weighed: SampleWeights, noted: Diagnostics, *, counts: bool = True
    ) -> None:
        advantages, kept = torch.tensor(weighed.advantages), torch.tensor(weighed.weights)
        self._losses.backpropagate(group, advantages, kept, noted, counts=counts)


def _notes(
    training: TrainingGroup,
    parts: Sequence[tuple[Group, SampleWeights]],
    noted: Diagnostics,
    seconds: float,
) -> GroupNotes:
    scored = [
        (reward, advantage)
        for part, weighed in parts
        for reward, advantage in zip(part.rewards, weighed.advantages, strict=True)
        if reward is not None
    ]
    return GroupNotes(
        place=training.place,
        turns=(turn_of(training.reference)[:2],),
        policy_version=min(part.job.policy_version for part, _ in parts),
        rewards=tuple(reward for reward, _ in scored),
        advantages=tuple(advantage for _, advantage in scored),
        seconds=seconds,
        **noted.figures(),
    )


def _parts(training: TrainingGroup) -> list[tuple[Group, SampleWeights]]:
    """The trained drafts of a refinement, if any, and then the group itself."""
    whole: Group = training.reference
    parts = [(whole, training.samples)]
    if training.drafts is not None and whole.draft_group is not None:
        parts.insert(0, (whole.draft_group, training.drafts))
    return parts
