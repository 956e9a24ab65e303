"""What the text and the image loss share: clipped surrogate, weighted mean, diagnostics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss and what to watch about it. All but ``loss`` are detached scalars."""

    loss: Tensor
    """Scalar to minimise; differentiable."""
    clip_share: Tensor
    """Share of (weighted) terms whose gradient the clip removes."""
    mean_ratio: Tensor
    """Mean of the probability ratio, current to recorded; 1 on-policy."""
    max_abs_log_ratio: Tensor
    """Largest |log ratio|, current to recorded, in the form that is clipped; the parity gate reads
    it at step 0.
    """
    kl: Tensor
    """Mean KL estimate to the reference, before its weight; 0 where there is no reference."""
    capped_share: Tensor | None = None
    """Share of terms whose importance weight is the cap; None without such weights."""
    mean_weight: Tensor | None = None
    """Mean importance weight; 1 on-policy."""


class Ratios(NamedTuple):
    """Probability ratios of the terms of a loss, all of one shape."""

    clipped: Tensor
    """Of the policy being trained to the old one; the gradient flows through it."""
    recorded: Tensor
    """The same to the policy that drew; detached."""
    importance: Tensor | None
    """What the terms are weighted by for having been drawn by another policy; detached."""

    def weighted(self, terms: Tensor) -> Tensor:
        """The terms of a loss times their importance weights, where there are any."""
        return terms if self.importance is None else terms * self.importance

    def figures(self, weights: Tensor) -> dict[str, Tensor]:
        """Fields of :class:`Objective`: means over the terms, which ``weights`` weigh."""
        figures = {"mean_ratio": weighted_mean(self.recorded, weights, None)}
        if self.importance is not None:
            capped = (self.recorded > self.importance).to(weights.dtype)
            figures["capped_share"] = weighted_mean(capped, weights, None)
            figures["mean_weight"] = weighted_mean(self.importance, weights, None)
        return figures


def ratios_of(log_ratio: Tensor, importance_cap: float | None) -> Ratios:
    """The ratios a loss is made of (truncated importance sampling; docs/learners.md, "Lag").

    Without a cap the old policy is the one that drew. With one it is the policy being trained as it
    is now: that ratio is exactly 1, only its gradient counts, and each term is weighted by
    ``min(current / recorded, cap)``. Where both policies are the same, so are both results.

    Args:
        log_ratio: log of current to recorded; the gradient flows through it.
        importance_cap: at least 1; None for no weights.
    """
    if importance_cap is None:
        ratio = log_ratio.exp()
        return Ratios(ratio, ratio.detach(), None)
    recorded = log_ratio.detach().exp()
    current = (log_ratio - log_ratio.detach()).exp()
    return Ratios(current, recorded, recorded.clamp_max(importance_cap))


def surrogate(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """``-min(ratio A, clip(ratio, 1 - low, 1 + high) A)``, element by element.

    Both tensors must have one shape: broadcasting [B] against [B, 1] is how the released code lets
    every sequence be pushed by the mean advantage (method: section 11, item 1).
    """
    if ratio.shape != advantages.shape:
        raise ValueError(
            f"ratio and advantages must have one shape, got {tuple(ratio.shape)} and "
            f"{tuple(advantages.shape)}"
        )
    clipped = ratio.clamp(1.0 - low, 1.0 + high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def clipped_away(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """Which terms the clip leaves without gradient, as 0 or 1."""
    too_high = (ratio > 1.0 + high) & (advantages > 0)
    too_low = (ratio < 1.0 - low) & (advantages < 0)
    return (too_high | too_low).float()


def weighted_mean(values: Tensor, weights: Tensor, denominator: float | Tensor | None) -> Tensor:
    """``sum(w v) / denominator``; the denominator defaults to ``sum(w)``, and 0 / 0 is 0."""
    total = (values * weights).sum()
    if denominator is None:
        denominator = weights.sum()
    return total / torch.as_tensor(denominator, dtype=total.dtype, device=total.device).clamp_min(
        torch.finfo(total.dtype).tiny
    )


def sample_weights(like: Tensor, sample_weight: Tensor | None) -> Tensor:
    """[B] float weights; all ones by default."""
    if sample_weight is None:
        return torch.ones_like(like)
    if sample_weight.shape != like.shape:
        raise ValueError(
            f"sample_weight must be {tuple(like.shape)}, one per sample, got "
            f"{tuple(sample_weight.shape)}"
        )
    return sample_weight.to(like.dtype)


def require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless ``tensor`` has exactly ``shape``."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")
