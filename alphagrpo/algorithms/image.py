"""The image half: clipped density ratios of the SDE transitions, one window step at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from alphagrpo.algorithms.objective import (
    Objective,
    clipped_away,
    ratios_of,
    require_shape,
    sample_weights,
    surrogate,
    weighted_mean,
)
from alphagrpo.flow.reduce import sample_mean


def image_loss(
    log_probs: Tensor,
    old: Tensor,
    advantages: Tensor,
    *,
    clip: float = 1e-5,
    clamp: float = 5.0,
    kl: Tensor | None = None,
    kl_weight: float = 0.0,
    sample_weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
    importance_cap: float | None = None,
) -> Objective:
    """Flow-GRPO loss of one SDE step (AlphaGRPO, image objective; method: section 1.2).

    ``rho_i = exp(log_probs_i - old_i)``, A clamped to [-clamp, clamp]::

        loss = mean_i -min(rho_i A_i, clip(rho_i, 1 - clip, 1 + clip) A_i) + kl_weight mean_i kl_i

    The log-probabilities are means over an image's elements, which is why the clip is so narrow.

    Args:
        log_probs: [B] of the replayed transition; the gradient flows through it.
        old: [B] recorded at rollout.
        advantages: [B].
        clip: half width of the ratio's range.
        clamp: bound on |A|; of the image half only.
        kl: [B] from :func:`image_kl`, or None.
        kl_weight: its weight.
        sample_weight: [B]; 0 leaves a sample out, whatever stands at its place.
        denominator: what the sum over samples is divided by; default the sum of the weights.
        importance_cap: with it ratios are taken against the policy being trained as it is now, and
            each term is weighted by min(rho, importance_cap), rho as above. The KL term is not.

    Raises:
        ValueError: for shapes other than [B], or a KL weight without ``kl``.
    """
    if log_probs.ndim != 1:
        raise ValueError(f"log_probs must be [B], got {tuple(log_probs.shape)}")
    require_shape("old", old, tuple(log_probs.shape))
    require_shape("advantages", advantages, tuple(log_probs.shape))
    if kl is None and kl_weight:
        raise ValueError(f"kl_weight {kl_weight} needs kl of image_kl; give it or set it to 0")
    weights = sample_weights(advantages.to(log_probs.dtype), sample_weight)
    keep = weights > 0
    # Selected, not multiplied by 0: what stands at the place of a left-out sample may be NaN.
    bounded = torch.where(keep, advantages.to(log_probs.dtype), 0.0).clamp(-clamp, clamp)
    log_ratio = torch.where(keep, log_probs - old.detach(), 0.0)
    ratios = ratios_of(log_ratio, importance_cap)
    terms = ratios.weighted(surrogate(ratios.clipped, bounded, clip, clip))
    loss = weighted_mean(terms, weights, denominator)
    mean_kl = loss.new_zeros(())
    if kl is not None:
        kept_kl = torch.where(keep, kl, 0.0)
        loss = loss + kl_weight * weighted_mean(kept_kl, weights, denominator)
        mean_kl = weighted_mean(kept_kl.detach(), weights, None)
    away = clipped_away(ratios.clipped.detach(), bounded, clip, clip)
    return Objective(
        loss=loss,
        clip_share=weighted_mean(away, weights, None),
        max_abs_log_ratio=log_ratio.detach().abs().amax() if keep.any() else loss.new_zeros(()),
        kl=mean_kl,
        **ratios.figures(weights),
    )


def image_kl(mean: Tensor, mean_ref: Tensor, std: Tensor | float) -> Tensor:
    """``mean over (N, C) of (mean - mean_ref)^2 / (2 std^2)`` (method: section 1.2, "Image part").

    ``std`` is sigma *without* sqrt(-dt): the released code leaves the step width out here, so this
    is (-dt) times the Gaussian KL divergence per element.

    Args:
        mean: [B, N, C] of the policy's transition; the gradient flows through it.
        mean_ref: [B, N, C] of the reference's.
        std: scalar or [B].

    Returns:
        [B], at least 0.
    """
    variance = torch.as_tensor(std, dtype=mean.dtype, device=mean.device).square()
    return sample_mean((mean - mean_ref.detach()).square()) / (2.0 * variance)
