"""Element-wise passes of a decoder layer: norm, rotary positions, gated activation.

On CUDA each is one Triton kernel forward and one backward; elsewhere it is plain torch. The same
function runs with and without gradient, so that a rollout and its replay give the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from alphagrpo.kernels.dispatch import Backend, use_triton


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, backend: Backend = "auto") -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis, in the weight's type.

    Triton computes in float32 whatever the types are, and float64 is left to plain torch. Gradient
    of ``x``, and of ``weight`` where it requires one.

    Args:
        x: [..., W].
        weight: [W].
        eps: added to the mean of squares.
        backend: ``auto`` takes Triton for CUDA tensors.

    Raises:
        ValueError: for a weight of another width.
    """
    if weight.shape != x.shape[-1:]:
        raise ValueError(
            f"the norm's weight must be [{x.shape[-1]}], the width of x, got {tuple(weight.shape)}"
        )
    if use_triton(backend, x.device) and torch.float64 not in (x.dtype, weight.dtype):
        from alphagrpo.kernels.launch_layers import rms_norm as launch

        return launch(x, weight, eps)
    if x.dtype != weight.dtype:
        x = x.to(weight.dtype)
    if weight.dtype == torch.float32 and x.device.type == "cpu":
        return _CpuRmsNorm.apply(x, weight, eps)
    return functional.rms_norm(x, weight.shape, weight, eps)


def rotate(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Rotary positions: ``x * cos + roll(x, head_dim / 2) * sin``, with the sign kept in ``sin``.

    Triton computes in float32 and rounds once to the result's type; float64 is left to plain
    torch. Gradient of ``x`` alone.

    Args:
        x: [B, S, heads, head_dim], an even head_dim.
        cos: [B or 1, S or 1, 1, head_dim], float32.
        sin: as ``cos``; its first half negated.
        dtype: of the result; without it x's type and the tables' are promoted.
        backend: ``auto`` takes Triton for CUDA tensors.

    Raises:
        ValueError: for tables of another shape, or an odd head_dim.
    """
    dtype = dtype or torch.promote_types(x.dtype, cos.dtype)
    if x.ndim != 4 or x.shape[-1] % 2:
        raise ValueError(f"x must be [B, S, heads, even head_dim], got {tuple(x.shape)}")
    batch, length, _, width = x.shape
    fits = cos.ndim == 4 and cos.shape[0] in (1, batch) and cos.shape[1] in (1, length)
    if not fits or cos.shape[2:] != (1, width) or sin.shape != cos.shape:
        raise ValueError(
            f"rotary tables of x {tuple(x.shape)} must both be [{batch} or 1, {length} or 1, 1, "
            f"{width}], got {tuple(cos.shape)} and {tuple(sin.shape)}"
        )
    if use_triton(backend, x.device) and torch.float64 not in (x.dtype, cos.dtype):
        from alphagrpo.kernels.launch_layers import rotate as launch

        return launch(x, cos, sin, dtype)
    return torch.addcmul(x * cos, torch.roll(x, width // 2, dims=-1), sin).to(dtype)


def swiglu(gate: Tensor, up: Tensor, *, backend: Backend = "auto") -> Tensor:
    """``silu(gate) * up``, with the gradients of both.

    Triton computes in float32 and rounds once, where plain torch in half precision rounds the
    activation as well; float64 is left to plain torch.

    Args:
        gate: [...].
        up: of gate's shape and type.
        backend: ``auto`` takes Triton for CUDA tensors.

    Raises:
        ValueError: for two shapes or two types.
    """
    if gate.shape != up.shape or gate.dtype != up.dtype:
        raise ValueError(
            f"gate and up must have one shape and one type, got {tuple(gate.shape)} {gate.dtype} "
            f"and {tuple(up.shape)} {up.dtype}"
        )
    if use_triton(backend, gate.device) and gate.dtype != torch.float64:
        from alphagrpo.kernels.launch_layers import swiglu as launch

        return launch(gate, up)
    return functional.silu(gate) * up


class _CpuRmsNorm(torch.autograd.Function):
    """y = x * r * w with r = (mean(x^2) + eps) ** -0.5 over the last axis, all float32.

    On the CPU a hand-written backward takes half the passes of the derived one.
    """

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
