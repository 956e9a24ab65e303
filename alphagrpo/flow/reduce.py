"""Sums whose order of addition never depends on the batch, the thread count or the library.

A library sum may split its range over threads, and split it differently for one sample than for
sixteen. Rollout and replay would then disagree in the last bit, and the image clip range (1e-5)
is close enough to the last bit for that to matter.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad


def ordered_sum(values: Tensor) -> Tensor:
    """Sum over the last axis as one fixed binary tree.

    The axis is padded with zeros to a power of two and its two halves are added until one element
    is left. Only element-wise additions are used, so every row's bits are the same in any batch.

    Args:
        values: [..., M], any floating type.

    Returns:
        [...]; differentiable.
    """
    size = values.shape[-1]
    padded = 1 << max(size - 1, 0).bit_length()
    if padded != size:
        values = pad(values, (0, padded - size))
    while padded > 1:
        padded //= 2
        values = values[..., :padded] + values[..., padded:]
    return values[..., 0]


def sample_mean(values: Tensor) -> Tensor:
    """Mean of each sample over everything but the batch: [B, ...] to [B], in the fixed order."""
    flat = values.flatten(start_dim=1)
    return ordered_sum(flat) / flat.shape[1]
