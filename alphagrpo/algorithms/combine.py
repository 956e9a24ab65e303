"""How the text loss and the losses of the window's steps become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Factors of the separate backward passes; they already contain the normaliser."""

    text: float
    """Factor of the text loss; 0 without thinking."""
    image: float
    """Factor of each window step's image loss."""


def loss_weights(window_length: int, text_weight: float = 1.0, *, thinking: bool) -> LossWeights:
    """Weights of ``L = [|W| lambda L_text + sum_k L_image,k] / (|W| + 1)`` (method: section 1.2).

    Without thinking the normaliser is ``1 / |W|``. For reasoning text-to-image |W| = 10 and
    lambda = 1, so the text weighs as much as all image steps together.

    Args:
        window_length: |W| >= 1.
        text_weight: lambda >= 0.
        thinking: whether there is a text half.

    Raises:
        ValueError: for an empty window or a negative weight.
    """
    if window_length < 1:
        raise ValueError(f"the SDE window needs at least one step, got {window_length}")
    if text_weight < 0:
        raise ValueError(f"the text loss weight must not be negative, got {text_weight}")
    if not thinking:
        return LossWeights(text=0.0, image=1.0 / window_length)
    scale = 1.0 / (window_length + 1)
    return LossWeights(text=window_length * text_weight * scale, image=scale)


def combine(
    text: Tensor | None, images: Sequence[Tensor] | Tensor, *, text_weight: float = 1.0
) -> Tensor:
    """The scalar that :func:`loss_weights` describes, for callers with one backward pass.

    Args:
        text: scalar text loss, or None for a run without thinking.
        images: the K = |W| scalar image losses, a sequence or [K].
        text_weight: lambda.
    """
    steps = images if isinstance(images, Tensor) else torch.stack(list(images))
    weights = loss_weights(steps.shape[0], text_weight, thinking=text is not None)
    total = weights.image * steps.sum()
    return total if text is None else total + weights.text * text
