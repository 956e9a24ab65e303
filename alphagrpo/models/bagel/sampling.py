"""Plain inference with BAGEL: greedy text, guided Euler drawing, bytes.

Reinforcement learning has its own samplers (:mod:`alphagrpo.rollout`), which call the same methods.
Legend of shapes: B sequence, L text token, N image token, C values per token, K step, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from alphagrpo.flow import Guidance, euler_step, guide
from alphagrpo.models.unified import Context, UnifiedModel, pack


@dataclass(frozen=True, slots=True)
class Branches:
    """Contexts of the guidance branches; a branch that is None is the conditional one."""

    cond: Context
    uncond_text: Context
    """Without the last text."""
    uncond_image: Context | None = None
    """Without images; None where the context holds no image."""


@dataclass(frozen=True, slots=True)
class Path:
    """A drawn path from noise to data."""

    times: Tensor
    """[K + 1] float32, last 0."""
    latents: Tensor
    """[K + 1, B, N, C]."""
    velocities: Tensor
    """[K, B, N, C] as used, guidance included."""
    guided: tuple[bool, ...]
    """Per step: whether guidance was active."""


def greedy_text(
    model: UnifiedModel, context: Context, steps: int, stop: int | None = None
) -> tuple[Tensor, Tensor]:
    """Decode one sequence greedily, feeding the text start id first, as the released code does.

    Args:
        model: the model.
        context: of one sequence, after the prompt.
        steps: largest number of returned ids, the start id included.
        stop: id that ends the text and is not returned.

    Returns:
        ids [L] beginning with the start id, and logits [L, V] after feeding each of them.
    """
    token = torch.tensor([[model.special.text_start]], device=context.mask.device)
    one = torch.ones(1, dtype=torch.int64, device=context.mask.device)
    ids, rows = [], []
    for _ in range(steps):
        context, hidden = model.read_text(context, token, one)
        logits = model.text_logits(hidden[:, -1])
        ids.append(token[0, 0])
        rows.append(logits[0])
        token = logits.argmax(dim=-1, keepdim=True)
        if stop is not None and int(token) == stop:
            break
    return torch.stack(ids), torch.stack(rows)


def guided_velocity(
    model: UnifiedModel,
    branches: Branches,
    latents: Tensor,
    t: float,
    grid: tuple[int, int],
    guidance: Guidance,
) -> Tensor:
    """Velocity [B, N, C] at time ``t``, all guidance branches in one forward."""
    names = guidance.branches(t, branches.uncond_image is not None)
    named = {
        "cond": branches.cond,
        "uncond_text": branches.uncond_text,
        "uncond_image": branches.uncond_image,
    }
    contexts = [context for name in names if (context := named[name]) is not None]
    count = len(contexts)
    time = torch.full((count * latents.shape[0],), t, device=latents.device)
    packed = contexts[0] if count == 1 else pack(contexts)
    velocity = model.velocity(packed, latents.repeat(count, 1, 1), time, grid)
    if count == 1:
        return velocity
    return guide(
        *velocity.chunk(count),
        text_scale=guidance.text_scale,
        image_scale=guidance.image_scale,
        renorm=guidance.renorm,
        renorm_min=guidance.renorm_min,
    )


def draw(
    model: UnifiedModel,
    branches: Branches,
    noise: Tensor,
    times: Tensor,
    grid: tuple[int, int],
    guidance: Guidance,
) -> Path:
    """Integrate the flow with Euler steps from ``noise`` [B, N, C] over ``times`` [K + 1]."""
    clock = times.tolist()
    x, latents, velocities = noise, [noise], []
    for t, t_next in pairwise(clock):
        v = guided_velocity(model, branches, x, t, grid, guidance)
        x = euler_step(x, v, t, t_next)
        latents.append(x)
        velocities.append(v)
    active = tuple(guidance.active(t) for t in clock[:-1])
    return Path(times, torch.stack(latents), torch.stack(velocities), active)


def to_bytes(pixels: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [-1, 1] to bytes [B, H, W, 3], truncated as the release does."""
    scaled = (pixels * 0.5 + 0.5).clamp(0, 1) * 255
    return scaled.permute(0, 2, 3, 1).to(torch.uint8)
