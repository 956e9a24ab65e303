"""The text half: clipped ratios of what was thought, per sequence or per token."""

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
from alphagrpo.options import RatioLevel


def text_loss(
    log_probs: Tensor,
    old: Tensor,
    mask: Tensor,
    advantages: Tensor,
    *,
    level: RatioLevel = "sequence",
    clip_low: float = 0.20,
    clip_high: float = 0.28,
    kl_weight: float = 0.0,
    ref_log_probs: Tensor | None = None,
    sample_weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
    importance_cap: float | None = None,
) -> Objective:
    """Sequence- or token-ratio GRPO loss (AlphaGRPO, text objective; method: section 1.2).

    With d_it = log_probs - old over the L_i unmasked positions of sample i::

        sequence:  s_i = exp(mean_t d_it)
                   loss = mean_i -min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i)
        token:     s_it = exp(d_it), the same per token, then mean over t, then over i
        KL:        + kl_weight mean_i mean_t sg(s) k3_t,  k3 = e^r - r - 1,  r = ref - log_probs

    where sg stops the gradient. A_i meets only its own sequence's ratio.

    Args:
        log_probs: [B, L] of the policy being trained; the gradient flows through it.
        old: [B, L] recorded when the text was sampled.
        mask: [B, L] bool: sampled positions, the closing end id included.
        advantages: [B].
        level: whether a ratio belongs to a sequence or to a token.
        clip_low: how far below 1 a ratio may go.
        clip_high: how far above 1.
        kl_weight: weight of the KL term; needs ``ref_log_probs``.
        ref_log_probs: [B, L] of the reference model.
        sample_weight: [B]; 0 leaves a sample out, whatever stands at its place.
        denominator: what the sum over samples is divided by; default the sum of the weights. A
            caller that splits a batch passes the whole batch's sum.
        importance_cap: with it ratios are taken against the policy being trained as it is now, and
            each term is weighted by min(s, importance_cap), s as above. The KL term is not.

    Raises:
        ValueError: for shapes other than these, an unknown level, or a KL weight without reference.
    """
    _check(log_probs, old, mask, advantages, level, kl_weight, ref_log_probs)
    # Weights as floats of the log-probs' kind; a sequence without tokens has no ratio to speak of.
    weights = sample_weights(advantages.to(log_probs.dtype), sample_weight)
    weights = weights * mask.any(dim=1)
    # Selected, not multiplied by 0: what stands at the place of a left-out sample may be NaN.
    keep = mask.bool() & (weights > 0)[:, None]
    advantages = torch.where(weights > 0, advantages.to(log_probs.dtype), 0.0)
    delta = torch.where(keep, log_probs - old.detach(), 0.0)
    if level == "sequence":
        log_ratio, position_weights = _token_mean(delta, keep), weights
        terms_advantages = advantages
    else:
        log_ratio = delta
        position_weights = weights[:, None] * keep / keep.sum(dim=1, keepdim=True).clamp_min(1)
        terms_advantages = advantages[:, None].expand_as(delta)
    ratios = ratios_of(log_ratio, importance_cap)
    # A caller's denominator is the whole step's: groups that are backpropagated one by one add up.
    terms = surrogate(ratios.clipped, terms_advantages, clip_low, clip_high)
    loss = weighted_mean(ratios.weighted(terms), position_weights, _total(weights, denominator))
    kl = loss.new_zeros(())
    if ref_log_probs is not None:
        penalty = _k3(log_probs, ref_log_probs, keep)
        penalty = penalty if level == "token" else _token_mean(penalty, keep)
        loss = loss + kl_weight * weighted_mean(
            ratios.recorded * penalty, position_weights, _total(weights, denominator)
        )
        kl = weighted_mean(penalty.detach(), position_weights, None)
    away = clipped_away(ratios.clipped.detach(), terms_advantages, clip_low, clip_high)
    return Objective(
        loss=loss,
        clip_share=weighted_mean(away, position_weights, None),
        max_abs_log_ratio=_largest(log_ratio.detach()),
        kl=kl,
        **ratios.figures(position_weights),
    )


def _k3(log_probs: Tensor, ref_log_probs: Tensor, keep: Tensor) -> Tensor:
    r = torch.where(keep, ref_log_probs.detach() - log_probs, 0.0)
    return torch.expm1(r) - r


def _token_mean(values: Tensor, keep: Tensor) -> Tensor:
    """Mean over each row's kept positions: [B, L] to [B]; 0 for a row without any."""
    return torch.where(keep, values, 0.0).sum(dim=1) / keep.sum(dim=1).clamp_min(1)


def _total(weights: Tensor, denominator: float | Tensor | None) -> float | Tensor:
    return weights.sum() if denominator is None else denominator


def _largest(log_ratio: Tensor) -> Tensor:
    return log_ratio.abs().amax() if log_ratio.numel() else log_ratio.new_zeros(())


def _check(
    log_probs: Tensor,
    old: Tensor,
    mask: Tensor,
    advantages: Tensor,
    level: str,
    kl_weight: float,
    ref_log_probs: Tensor | None,
) -> None:
    if log_probs.ndim != 2:
        raise ValueError(f"log_probs must be [B, L], got {tuple(log_probs.shape)}")
    batch, length = log_probs.shape
    require_shape("old", old, (batch, length))
    require_shape("mask", mask, (batch, length))
    require_shape("advantages", advantages, (batch,))
    if level not in ("sequence", "token"):
        raise ValueError(f"level must be 'sequence' or 'token', got {level!r}")
    if ref_log_probs is not None:
        require_shape("ref_log_probs", ref_log_probs, (batch, length))
    elif kl_weight:
        raise ValueError(f"kl_weight {kl_weight} needs ref_log_probs; give them or set it to 0")
