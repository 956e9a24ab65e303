"""How the text loss and the losses of the window's steps become one."""

from __future__ import annotations

from dataclasses import dataclass


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
