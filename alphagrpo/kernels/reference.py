"""Plain torch versions of the kernels: what the CPU runs and what the Triton kernels must equal.

Legend of shapes: B sample, N image token, C latent channel, T text token, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alphagrpo.flow.guidance import Guidance, guide
from alphagrpo.flow.reduce import sample_mean
from alphagrpo.flow.sde import StepCoefficients

TOKEN_CHUNK = 256
"""Rows of logits that exist at one time: 256 x 152,064 float32 are 0.15 GB."""
HEAD_CHUNK = 16384
"""Rows of a half-precision head that are widened at one time: at 3,584 wide, 0.23 GB."""


def guided_velocity(velocities: Sequence[Tensor], guidance: Guidance) -> Tensor:
    """Combine branches [B, N, C] as :func:`alphagrpo.flow.guide` does; one alone is unguided."""
    if len(velocities) == 1:
        return velocities[0]
    return guide(
        velocities[0],
        velocities[1],
        velocities[2] if len(velocities) == 3 else None,
        text_scale=guidance.text_scale,
        image_scale=guidance.image_scale,
        renorm=guidance.renorm,
        renorm_min=guidance.renorm_min,
    )


def transition_mean(
    x: Tensor, velocities: Sequence[Tensor], guidance: Guidance, coefficients: StepCoefficients
) -> Tensor:
    """Mean [B, N, C] of the guided SDE transition, differentiable in every branch."""
    velocity = guided_velocity(velocities, guidance)
    x_weight, v_weight = (
        _column(value, x) for value in (coefficients.x_weight, coefficients.v_weight)
    )
    return x_weight * x + v_weight * velocity


def draw_next(mean: Tensor, noise: Tensor, coefficients: StepCoefficients) -> Tensor:
    """``mean + sigma sqrt(-dt) noise``."""
    return mean + _column(coefficients.noise_scale, mean) * noise


def log_prob(x_next: Tensor, mean: Tensor, coefficients: StepCoefficients) -> Tensor:
    """[B]: mean over (N, C) of ``-(x_next - mean)^2 / (2 sigma^2 (-dt))``, in the fixed order."""
    weight = _column(coefficients.log_prob_weight, mean)
    return -sample_mean((x_next - mean).square() * weight)


def token_log_probs(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy per token, by chunks of tokens that are recomputed in backward.

    Products and sums are float32 for lower precisions and float64 for float64. Arguments and
    results as of :func:`alphagrpo.kernels.token_log_probs`.
    """
    chunks = [
        checkpoint(_chunk_log_probs, rows, head, ids, use_reentrant=False)
        for rows, ids in zip(hidden.split(TOKEN_CHUNK), targets.split(TOKEN_CHUNK), strict=True)
    ]
    log_probs, entropies = zip(*chunks, strict=True)
    return torch.cat(log_probs), torch.cat(entropies)


def _chunk_log_probs(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        hidden = hidden.to(dtype)
        if head.dtype == dtype:
            logits = hidden @ head.detach().T
        else:
            logits = _WidenedProduct.apply(hidden, head)
    log_probabilities = logits.log_softmax(dim=-1)
    chosen = log_probabilities.gather(-1, targets[:, None])[:, 0]
    return chosen, -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


class _WidenedProduct(torch.autograd.Function):
    """``hidden @ head.T`` in hidden's wider type, with the gradient of hidden.

    Only :data:`HEAD_CHUNK` rows of the head are widened at a time, backward as well, where the
    derived backward would keep a copy of the whole.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor) -> Tensor:
        ctx.save_for_backward(head)
        logits = hidden.new_empty(hidden.shape[0], head.shape[0])
        for rows in _chunks(head):
            torch.mm(hidden, head[rows].to(hidden.dtype).T, out=logits[:, rows])
        return logits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (head,) = ctx.saved_tensors
        grad = grads[0]
        out = grad.new_zeros(grad.shape[0], head.shape[1])
        for rows in _chunks(head):
            out.addmm_(grad[:, rows], head[rows].to(grad.dtype))
        return out, None


def _chunks(head: Tensor) -> Iterator[slice]:
    for first in range(0, head.shape[0], HEAD_CHUNK):
        yield slice(first, first + HEAD_CHUNK)


def _column(value: Tensor, like: Tensor) -> Tensor:
    """A float64 scalar or [B] as [B or 1, 1, 1] of ``like``'s kind, at least float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return value.to(like.device, dtype).reshape(-1, 1, 1)
