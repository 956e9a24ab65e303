"""Triton: the element-wise passes of a decoder layer, each reading and writing its tensors once.

Everything is computed in float32 and rounded once. A row's bits do not depend on how many rows
there are, and forward is one compiled kernel whether a gradient is wanted or not.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernel arguments are pointers and blocks, which have no Python type.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "eps"])
def rms_norm_kernel(
    x_ptr, weight_ptr, out_ptr, scale_ptr, rows, eps, WIDTH: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_W: tl.constexpr,
):  # fmt: skip
    """``out = x r w`` with ``r = (mean(x^2) + eps) ** -0.5`` of each row; stores r."""
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.arange(0, BLOCK_W)
    mask = (row < rows)[:, None] & (column < WIDTH)[None, :]
    place = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 1) / WIDTH + eps)
    tl.store(scale_ptr + row, scale, mask=row < rows)
    out = x * scale[:, None] * weight[None, :]
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "steps"])
def rms_norm_backward_kernel(
    x_ptr, weight_ptr, scale_ptr, grad_ptr, grad_x_ptr, grad_weight_ptr, rows, steps,
    WIDTH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr, LEARNT: tl.constexpr,
):  # fmt: skip
    """Gradient of x; and if the weight is LEARNT, this program's share of the weight's gradient.

    A program walks over ``steps`` blocks of rows in order. ``grad_weight_ptr`` is [programs, WIDTH]
    float32, to be added up by the caller.
    """
    program = tl.program_id(0)
    column = tl.arange(0, BLOCK_W)
    weight = tl.load(weight_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    share = tl.zeros([BLOCK_W], tl.float32)
    for step in range(0, steps):
        row = (program * steps + step) * BLOCK_R + tl.arange(0, BLOCK_R)
        mask = (row < rows)[:, None] & (column < WIDTH)[None, :]
        place = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + row, mask=row < rows, other=0.0)[:, None]
        unit = x * scale
        pull = grad * weight[None, :]
        mean = tl.sum(pull * unit, 1)[:, None] / WIDTH
        grad_x = (pull - unit * mean) * scale
        tl.store(grad_x_ptr + place, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
        if LEARNT:
            share += tl.sum(grad * unit, 0)
    if LEARNT:
        tl.store(grad_weight_ptr + program * WIDTH + column, share, mask=column < WIDTH)


@triton.jit(do_not_specialize=["tokens", "length"])
def rotate_kernel(
    x_ptr, cos_ptr, sin_ptr, out_ptr, tokens, length, HEADS: tl.constexpr, HALF: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_H: tl.constexpr, PER_SEQUENCE: tl.constexpr,
    PER_TOKEN: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """``x cos + roll(x) sin`` of x [tokens, HEADS, 2 HALF], or its gradient from ``x``, upstream.

    A program takes BLOCK_R tokens and reads their tables once for all heads. Tokens are counted
    over all sequences, ``length`` of them in each; the tables have a row per token of a sequence
    (PER_TOKEN) or one, and that for each sequence (PER_SEQUENCE) or once.
    """
    token = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.arange(0, BLOCK_H)
    mask = (token < tokens)[:, None] & (column < HALF)[None, :]
    table = token * 0
    if PER_TOKEN:
        table += token % length
    if PER_SEQUENCE:
        table += token // length * (length if PER_TOKEN else 1)
    low = table.to(tl.int64)[:, None] * (2 * HALF) + column[None, :]
    cos_low = tl.load(cos_ptr + low, mask=mask, other=0.0).to(tl.float32)
    cos_high = tl.load(cos_ptr + low + HALF, mask=mask, other=0.0).to(tl.float32)
    # The roll's gradient is the roll again, of what the other half's sine has multiplied.
    sin_low = tl.load(sin_ptr + low + (HALF if BACKWARD else 0), mask=mask, other=0.0).to(
        tl.float32
    )
    sin_high = tl.load(sin_ptr + low + (0 if BACKWARD else HALF), mask=mask, other=0.0).to(
        tl.float32
    )
    place = token.to(tl.int64)[:, None] * (HEADS * 2 * HALF) + column[None, :]
    kind = out_ptr.dtype.element_ty
    for head in range(0, HEADS):
        here = place + head * (2 * HALF)
        x_low = tl.load(x_ptr + here, mask=mask, other=0.0).to(tl.float32)
        x_high = tl.load(x_ptr + here + HALF, mask=mask, other=0.0).to(tl.float32)
        out_low = x_low * cos_low + x_high * sin_low
        out_high = x_high * cos_high + x_low * sin_high
        tl.store(out_ptr + here, out_low.to(kind), mask=mask)
        tl.store(out_ptr + here + HALF, out_high.to(kind), mask=mask)


@triton.jit(do_not_specialize=["size"])
def swiglu_kernel(gate_ptr, up_ptr, out_ptr, size, BLOCK: tl.constexpr):
    """``silu(gate) up``."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = place < size
    gate = tl.load(gate_ptr + place, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + place, mask=mask, other=0.0).to(tl.float32)
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["size"])
def swiglu_backward_kernel(
    gate_ptr, up_ptr, grad_ptr, grad_gate_ptr, grad_up_ptr, size, BLOCK: tl.constexpr
):
    """Gradients of gate and up."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = place < size
    gate = tl.load(gate_ptr + place, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + place, mask=mask, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
    open_share = 1.0 / (1.0 + tl.exp(-gate))
    silu = gate * open_share
    grad_gate = grad * up * (open_share + silu * (1.0 - open_share))
    kind = grad_gate_ptr.dtype.element_ty
    tl.store(grad_gate_ptr + place, grad_gate.to(kind), mask=mask)
    tl.store(grad_up_ptr + place, (grad * silu).to(kind), mask=mask)
