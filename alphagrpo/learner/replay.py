"""Scoring a recorded group again, with gradient, through exactly the forwards of its rollout.

Legend of shapes: G sample, L sampled token, K trained SDE step, N image token, C latent channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alphagrpo.config import RunConfig
from alphagrpo.errors import PolicyDataError
from alphagrpo.flow import Window
from alphagrpo.kernels import Transition
from alphagrpo.models.unified import Context, UnifiedModel
from alphagrpo.rollout.contexts import Branches, Ids, ReadThoughts, read_prefix, read_thoughts
from alphagrpo.rollout.denoising import FlowPlan, replay_step
from alphagrpo.types import GivenText, Group, TextSegment, Trajectory


@dataclass(frozen=True, slots=True)
class GroupReplay:
    """A group's recorded samples beside what the current weights make of them."""

    prefix: Context
    """[system][prompt] of each sample: a constant."""
    thoughts: ReadThoughts | None
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

    def image_log_probs(self, model: UnifiedModel) -> Tensor:
        """[G, K], all steps at once: for checks; the learner goes step by step to bound memory."""
        return torch.stack(
            [self.image_step(model, k).log_prob for k in range(self.num_steps)], dim=1
        )


def replay_group(model: UnifiedModel, group: Group, config: RunConfig) -> GroupReplay:
    """Read what the group's samples had read, thoughts with gradient, contexts of pictures without.

    All G samples are replayed, invalid ones too: another batch could give other bits.

    Raises:
        PolicyDataError: where the samples do not have one prefix, window and form.
    """
    device = model.empty_context(1).mask.device
    first = group.trajectories[0]
    images = [trajectory.image for trajectory in group.trajectories]
    if len({(image.window_start, image.latents.shape) for image in images}) != 1:
        raise PolicyDataError(
            f"all samples of a group must share one SDE window, group {first.id} has several; "
            "its runner is of another version"
        )
    prefix = read_prefix(model, _given(first, "system"), [_given(first, "prompt")])
    prefix = prefix.expand(len(images))
    texts = [t for t in (trajectory.text for trajectory in group.trajectories) if t is not None]
    if len(texts) not in (0, len(images)):
        raise PolicyDataError(f"either all samples of group {first.id} must think or none")
    thoughts, old_text = None, None
    if texts:
        thoughts = read_thoughts(
            model, prefix.full, [t.token_ids for t in texts], [t.finished for t in texts]
        )
        old_text = _recorded(texts, thoughts.mask)
    window = Window(images[0].window_start, images[0].latents.shape[0] - 1)
    side = model.pixels_per_token
    return GroupReplay(
        prefix=prefix.full,
        thoughts=thoughts,
        old_text=old_text,
        branches=Branches.of(thoughts.context if thoughts else prefix.full, prefix.text_free),
        plan=FlowPlan.for_training(config, window),
        grid=(images[0].pixels.shape[0] // side, images[0].pixels.shape[1] // side),
        latents=torch.from_numpy(np.stack([image.latents for image in images])).to(device),
        old_image=torch.from_numpy(np.stack([image.log_probs for image in images])).to(device),
    )


def _given(trajectory: Trajectory, role: str) -> Ids:
    for segment in trajectory.segments:
        if isinstance(segment, GivenText) and segment.role == role:
            return segment.token_ids
    raise PolicyDataError(f"trajectory {trajectory.id} must hold its {role} text, it does not")


def _recorded(texts: list[TextSegment], mask: Tensor) -> Tensor:
    """Recorded log-probabilities at the sampled positions [G, L]."""
    flat = torch.from_numpy(np.concatenate([text.log_probs for text in texts])).to(mask.device)
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, flat)
