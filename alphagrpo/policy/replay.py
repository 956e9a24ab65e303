"""Scoring a recorded group again, with gradient, through exactly the forwards of its rollout.

Legend of shapes: G sample, L sampled token, K trained SDE step, N image token, C latent channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from alphagrpo.config import RunConfig
from alphagrpo.errors import PolicyDataError
from alphagrpo.flow import Window
from alphagrpo.kernels import Transition
from alphagrpo.models.unified import Context, UnifiedModel
from alphagrpo.policy.contexts import (
    Branches,
    Ids,
    Prefix,
    ScoredThoughts,
    read_prefix,
    read_thoughts,
)
from alphagrpo.policy.denoising import FlowPlan, replay_step
from alphagrpo.policy.recipe import Recipe
from alphagrpo.policy.starts import Start, image_conditions
from alphagrpo.types import GivenImage, GivenText, Group, TextSegment, Trajectory

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GroupReplay:
    """One round of a group: its recorded samples beside what the current weights make of them."""

    prefix: Context
    """What each sample had read before it thought: a constant."""
    texts: tuple[TextSegment, ...]
    """The recorded thoughts; none in a run without thinking."""
    thoughts: ScoredThoughts | None
    """With gradient; None in a run without thinking."""
    old_text: Tensor | None
    """[G, L] recorded log-probabilities, 0 where nothing was sampled."""
    branches: Branches
    plan: FlowPlan
    grid: tuple[int, int]
    latents: Tensor
    """[G, K + 1, N, C]"""
    old_image: Tensor
    """[G, K]"""

    @property
    def num_steps(self) -> int:
        """K."""
        return self.old_image.shape[1]

    def read_again(self, model: UnifiedModel) -> ScoredThoughts:
        """The thoughts under the model as it is now, for a reference without adapters."""
        return _read(model, self.prefix, self.texts)

    def for_pictures(self) -> GroupReplay:
        """The same without thoughts, for the steps of the window: what only they needed is free.

        With guidance the pack of all branches holds what each sample has read, so that the branch
        which saw everything is a view of it.
        """
        assert self.plan.window is not None, "a replay always has a window"
        branches, first = self.branches, self.plan.window.start
        most = max(self.plan.num_branches(first + k) for k in range(self.num_steps))
        if most > 1:
            packed, (conditional, *others) = branches.packed(most), branches.contexts
            if conditional.length == packed.length:
                branches = Branches(
                    (_first_rows(packed, conditional.batch), *others), {most: packed}
                )
        return replace(self, thoughts=None, old_text=None, branches=branches)

    def image_step(self, model: UnifiedModel, k: int) -> Transition:
        """Score the window's step ``k`` of all samples: log-probabilities [G] with gradient."""
        assert self.plan.window is not None, "a replay always has a window"
        return replay_step(
            model,
            self.branches,
            self.plan,
            self.latents[:, k].contiguous(),
            self.latents[:, k + 1].contiguous(),
            self.plan.window.start + k,
            self.grid,
        )


def replay_group(
    model: UnifiedModel, group: Group, config: RunConfig, round_index: int = 0
) -> GroupReplay:
    """Read what the group's samples had read, thoughts with gradient, contexts of pictures without.

    All G samples are replayed, invalid ones too: another batch could give other bits.
    ``round_index`` chooses among the rounds of a refinement.

    Raises:
        PolicyDataError: where the samples do not have one prefix, window and form.
    """
    recipe = Recipe.of(config, group.job.task)
    first = group.trajectories[0]
    images = [_nth(t.images, round_index, t) for t in group.trajectories]
    if len({(image.window_start, image.latents.shape) for image in images}) != 1:
        raise PolicyDataError(
            f"all samples of a group must share one SDE window, group {first.id} has several; "
            "its runner is of another version"
        )
    if len({len(t.texts) for t in group.trajectories}) != 1:
        raise PolicyDataError(f"either all samples of group {first.id} must think or none")
    texts = tuple(_nth(t.texts, round_index, t) for t in group.trajectories if t.texts)
    window = Window(images[0].window_start, images[0].latents.shape[0] - 1)
    plan, side = recipe.plan(window), model.pixels_per_token
    grid = (images[0].pixels.shape[0] // side, images[0].pixels.shape[1] // side)
    prefix = _prefix(model, group, plan, grid, round_index)
    thoughts = _read(model, prefix.full, texts) if texts else None
    device = prefix.full.mask.device
    return GroupReplay(
        prefix=prefix.full,
        texts=texts,
        thoughts=thoughts,
        old_text=_recorded(texts, thoughts.mask) if thoughts else None,
        branches=Branches.after(prefix, thoughts.context if thoughts else prefix.full),
        plan=plan,
        grid=grid,
        latents=torch.from_numpy(np.stack([image.latents for image in images])).to(device),
        old_image=torch.from_numpy(np.stack([image.log_probs for image in images])).to(device),
    )


def _prefix(
    model: UnifiedModel, group: Group, plan: FlowPlan, grid: tuple[int, int], round_index: int
) -> Prefix:
    """What each sample had read before this round's thought, in the rollout's geometry."""
    first, size = group.trajectories[0], len(group.trajectories)
    system, prompt = _given(first, "system"), _given(first, "prompt")
    if prompt is None:
        raise PolicyDataError(f"trajectory {first.id} must hold its prompt text, it does not")
    starts = _starts(group, round_index)
    pictures = image_conditions(starts, grid, model) if starts else None
    prefix = read_prefix(
        model,
        system,
        [prompt] * max(1, len(starts)),
        pictures,
        image_branch=pictures is not None and plan.needs_image_branch,
    )
    return prefix.expand(size) if len(starts) < 2 else prefix


def _starts(group: Group, round_index: int) -> Sequence[Start]:
    """The pictures this round began from: none, one for all samples, or each sample's last."""
    if round_index > 0:
        return [t.images[round_index - 1] for t in group.trajectories]
    drafts = [s for s in group.trajectories[0].segments if isinstance(s, GivenImage)]
    if group.job.task == "srr" and len(drafts) != 1:
        raise PolicyDataError(
            f"a refinement begins from one draft, {group.trajectories[0].id} holds {len(drafts)}; "
            "its runner is of another version"
        )
    return drafts


def _nth(segments: Sequence[T], index: int, trajectory: Trajectory) -> T:
    if index < len(segments):
        return segments[index]
    raise PolicyDataError(
        f"trajectory {trajectory.id} must have a round {index + 1}, it has {len(segments)}; "
        "its runner has another refinement.rounds"
    )


def _read(model: UnifiedModel, prefix: Context, texts: Sequence[TextSegment]) -> ScoredThoughts:
    return read_thoughts(model, prefix, [t.token_ids for t in texts], [t.finished for t in texts])


def _given(trajectory: Trajectory, role: str) -> Ids | None:
    for segment in trajectory.segments:
        if isinstance(segment, GivenText) and segment.role == role:
            return segment.token_ids
    return None


def _first_rows(context: Context, number: int) -> Context:
    """The first sequences of a context, without a copy."""
    return replace(
        context,
        keys=tuple(keys[:number] for keys in context.keys),
        values=tuple(values[:number] for values in context.values),
        mask=context.mask[:number],
        position=context.position[:number],
    )


def _recorded(texts: Sequence[TextSegment], mask: Tensor) -> Tensor:
    """Recorded log-probabilities at the sampled positions [G, L]."""
    flat = torch.from_numpy(np.concatenate([text.log_probs for text in texts])).to(mask.device)
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, flat)
