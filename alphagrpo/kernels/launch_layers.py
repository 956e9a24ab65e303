"""Launches the Triton kernels of a decoder layer's passes as differentiable operations.

Block sizes are functions of shapes and types, and the same with and without gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from alphagrpo.kernels.launch import aligned, stored
from alphagrpo.kernels.triton_layers import (
    rms_norm_backward_kernel,
    rms_norm_kernel,
    rotate_kernel,
    swiglu_backward_kernel,
    swiglu_kernel,
)

TILE = 4096
"""Elements a program holds at a time, 32 a thread."""
SWIGLU_BLOCK = 2048
MOST_SHARES = 512
"""Programs among which the rows of a norm with a learnt weight are divided."""
_FIXED = {"num_warps": 4, "enable_fp_fusion": False}


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See :func:`alphagrpo.kernels.rms_norm`."""
    return _RmsNorm.apply(x, weight, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """See :func:`alphagrpo.kernels.rotate`."""
    return _Rotate.apply(x, aligned(cos), aligned(sin), dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """See :func:`alphagrpo.kernels.swiglu`."""
    return _SwiGlu.apply(gate, up)


def _empty(like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(like.shape, dtype=stored(dtype), device=like.device)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x, weight = aligned(x), aligned(weight)
        width = x.shape[-1]
        rows = x.numel() // width
        out = _empty(x, weight.dtype)
        scale = torch.empty(rows, dtype=torch.float32, device=x.device)
        ctx.tile = _row_tile(width)
        if rows:
            rms_norm_kernel[(triton.cdiv(rows, ctx.tile["BLOCK_R"]),)](
                x, weight, out, scale, rows, eps, WIDTH=width, **ctx.tile, **_FIXED
            )
        ctx.save_for_backward(x, weight, scale)
        return out.to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        grad = aligned(grads[0])
        learnt, width, rows = ctx.needs_input_grad[1], x.shape[-1], scale.shape[0]
        grad_x = _empty(x, x.dtype)
        blocks = triton.cdiv(rows, ctx.tile["BLOCK_R"])
        steps = max(1, triton.cdiv(blocks, MOST_SHARES)) if learnt else 1
        programs = triton.cdiv(blocks, steps)
        shares = torch.empty(programs if learnt else 0, width, device=x.device)
        if rows:
            rms_norm_backward_kernel[(programs,)](
                x, weight, scale, grad, grad_x, shares, rows, steps,
                WIDTH=width, LEARNT=learnt, **ctx.tile, **_FIXED,
            )  # fmt: skip
        grad_weight = shares.sum(dim=0).to(weight.dtype) if learnt else None
        return grad_x.to(x.dtype), grad_weight, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _rotated(x, cos, sin, dtype, backward=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, ctx.dtype, backward=True), None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype, *, backward: bool) -> Tensor:
    x = aligned(x)
    batch, length, heads, width = x.shape
    half = width // 2
    block_h = triton.next_power_of_2(half)
    block_r = max(1, TILE // (4 * block_h))  # two halves of two tables
    out = _empty(x, dtype)
    if x.numel():
        rotate_kernel[(triton.cdiv(batch * length, block_r),)](
            x, cos, sin, out, batch * length, length, HEADS=heads, HALF=half, BLOCK_R=block_r,
            BLOCK_H=block_h, PER_SEQUENCE=cos.shape[0] > 1, PER_TOKEN=cos.shape[1] > 1,
            BACKWARD=backward, **_FIXED,
        )  # fmt: skip
    return out.to(dtype)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = aligned(gate), aligned(up)
        out = _empty(gate, gate.dtype)
        if gate.numel():
            swiglu_kernel[_swiglu_grid(gate)](
                gate, up, out, gate.numel(), BLOCK=SWIGLU_BLOCK, **_FIXED
            )
        ctx.save_for_backward(gate, up)
        return out.to(gate.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate, grad_up = _empty(gate, gate.dtype), _empty(up, up.dtype)
        if gate.numel():
            swiglu_backward_kernel[_swiglu_grid(gate)](
                gate, up, aligned(grads[0]), grad_gate, grad_up, gate.numel(),
                BLOCK=SWIGLU_BLOCK, **_FIXED,
            )  # fmt: skip
        return grad_gate.to(gate.dtype), grad_up.to(up.dtype)


def _swiglu_grid(gate: Tensor) -> tuple[int]:
    return (triton.cdiv(gate.numel(), SWIGLU_BLOCK),)


def _row_tile(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"BLOCK_R": max(1, TILE // block), "BLOCK_W": block}
