"""Root-mean-square norm as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alphagrpo.kernels import rms_norm


class RmsNorm(nn.Module):
    """Root-mean-square norm over the last axis, in at least the weight's precision."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same shape, in the weight's type."""
        return rms_norm(x, self.weight, self.eps)
