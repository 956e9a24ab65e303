"""Root-mean-square norm; on the CPU with a hand-written backward of half the passes.

The same function runs with and without gradient, so that a rollout and its replay give the same
bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _CpuRmsNorm(torch.autograd.Function):
    """y = x * r * w with r = (mean(x^2) + eps) ** -0.5 over the last axis, all float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        grad = grads[0]
        width = x.shape[-1]
        with torch.autocast("cpu", enabled=False):
            unit = x * scale
            product = grad * unit
            grad_weight = product.reshape(-1, width).sum(0) if ctx.needs_input_grad[1] else None
            if not ctx.needs_input_grad[0]:
                return None, grad_weight, None
            mean = (product @ weight).div_(width).unsqueeze(-1)
            grad_x = torch.mul(grad, weight).addcmul_(unit, mean, value=-1.0).mul_(scale)
        return grad_x, grad_weight, None


class RmsNorm(nn.Module):
    """Root-mean-square norm over the last axis, in at least the weight's precision."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same shape, in the weight's type."""
        weight = self.weight
        if x.dtype != weight.dtype:
            x = x.to(weight.dtype)
        if weight.dtype == torch.float32 and x.device.type == "cpu":
            return _CpuRmsNorm.apply(x, weight, self.eps)
        return functional.rms_norm(x, weight.shape, weight, self.eps)
