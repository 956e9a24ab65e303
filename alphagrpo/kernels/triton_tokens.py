"""Triton: log-probability and entropy of tokens from hidden states and the output head.

The logits exist only as tiles. The vocabulary is cut into chunks of fixed size, each reduced on
line by its own program, so that few tokens still occupy many multiprocessors and the order of
summation depends neither on the batch nor on the device.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernel arguments are pointers and blocks, which have no Python type.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def logits_tile(
    hidden, head, rows, columns, T, V, D: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """[BLOCK_T, BLOCK_V] logits in float32; rows and columns out of range are 0."""
    logits = tl.zeros([BLOCK_T, BLOCK_V], tl.float32)
    for start in range(0, D, BLOCK_D):
        inner = start + tl.arange(0, BLOCK_D)
        h = tl.load(
            hidden + rows.to(tl.int64)[:, None] * D + inner[None, :],
            mask=(rows < T)[:, None] & (inner < D)[None, :],
            other=0.0,
        )
        w = tl.load(
            head + columns.to(tl.int64)[None, :] * D + inner[:, None],
            mask=(columns < V)[None, :] & (inner < D)[:, None],
            other=0.0,
        )
        logits = tl.dot(h.to(COMPUTE), w.to(COMPUTE), logits, input_precision="ieee")
    return logits


@triton.jit
def partials_kernel(
    hidden, head, targets, maxima, sums, weighted, chosen, T, V, splits, D: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """Reduce one chunk of the vocabulary for a block of tokens.

    Stores the chunk's largest logit m, ``sum e^(z - m)``, ``sum e^(z - m) (z - m)`` and, if it lies
    in the chunk, the target's logit. Moments about m keep the entropy free of cancellation.
    """
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    split = tl.program_id(1)
    target = tl.load(targets + rows, mask=rows < T, other=-1)
    highest = tl.full([BLOCK_T], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_T], tl.float32)
    moment = tl.zeros([BLOCK_T], tl.float32)
    picked = tl.zeros([BLOCK_T], tl.float32)
    for offset in range(0, CHUNK, BLOCK_V):
        columns = split * CHUNK + offset + tl.arange(0, BLOCK_V)
        real = (columns < V)[None, :]
        logits = logits_tile(
            hidden, head, rows, columns, T, V, D, BLOCK_T, BLOCK_V, BLOCK_D, COMPUTE
        )
        new_highest = tl.maximum(highest, tl.max(tl.where(real, logits, float("-inf")), 1))
        shift = tl.where(total > 0.0, highest - new_highest, 0.0)
        below = logits - new_highest[:, None]
        mass = tl.where(real, tl.exp(below), 0.0)
        moment = (moment + shift * total) * tl.exp(shift) + tl.sum(mass * below, 1)
        total = total * tl.exp(shift) + tl.sum(mass, 1)
        picked += tl.sum(tl.where(columns[None, :] == target[:, None], logits, 0.0), 1)
        highest = new_highest
    place = rows * splits + split
    tl.store(maxima + place, highest, mask=rows < T)
    tl.store(sums + place, total, mask=rows < T)
    tl.store(weighted + place, moment, mask=rows < T)
    tl.store(chosen + place, picked, mask=rows < T)


@triton.jit
def logit_gradient_kernel(
    hidden, head, targets, normaliser, entropy, grad_log_prob, grad_entropy, out, first, T, V,
    D: tl.constexpr, CHUNK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Gradient of one chunk's recomputed logits: g (1[j = y] - p) - h p (log p + entropy)."""
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    local = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    columns = first + local
    known = rows < T
    logits = logits_tile(hidden, head, rows, columns, T, V, D, BLOCK_T, BLOCK_V, BLOCK_D, COMPUTE)
    log_sum = tl.load(normaliser + rows, mask=known, other=0.0)
    spread = tl.load(entropy + rows, mask=known, other=0.0)
    target = tl.load(targets + rows, mask=known, other=-1)
    g = tl.load(grad_log_prob + rows, mask=known, other=0.0)
    h = tl.load(grad_entropy + rows, mask=known, other=0.0)
    log_p = logits - log_sum[:, None]
    p = tl.exp(log_p)
    hit = tl.where(columns[None, :] == target[:, None], 1.0, 0.0)
    grad = g[:, None] * (hit - p) - h[:, None] * p * (log_p + spread[:, None])
    grad = tl.where((columns < V)[None, :], grad, 0.0)
    place = rows.to(tl.int64)[:, None] * CHUNK + local[None, :]
    tl.store(out + place, grad, mask=known[:, None] & (local < CHUNK)[None, :])


@triton.jit
def hidden_gradient_kernel(
    grad_logits, head, out, first, T, V, D: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Add one chunk's ``grad_logits @ head`` to ``out`` [T, D]; each element has one owner."""
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    inner = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = (rows < T)[:, None] & (inner < D)[None, :]
    place = rows.to(tl.int64)[:, None] * D + inner[None, :]
    total = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for offset in range(0, CHUNK, BLOCK_V):
        local = offset + tl.arange(0, BLOCK_V)
        columns = first + local
        grad = tl.load(
            grad_logits + rows.to(tl.int64)[:, None] * CHUNK + local[None, :],
            mask=(rows < T)[:, None] & (local < CHUNK)[None, :],
            other=0.0,
        )
        w = tl.load(
            head + columns.to(tl.int64)[:, None] * D + inner[None, :],
            mask=(columns < V)[:, None] & (inner < D)[None, :],
            other=0.0,
        )
        if COMPUTE == tl.float32:
            total = tl.dot(grad, w.to(tl.float32), total, input_precision="ieee")
        else:
            # Two half-precision products keep 16 bits of the gradient at tensor-core speed.
            coarse = grad.to(COMPUTE)
            fine = (grad - coarse.to(tl.float32)).to(COMPUTE)
            total = tl.dot(coarse, w.to(COMPUTE), total)
            total = tl.dot(fine, w.to(COMPUTE), total)
    total += tl.load(out + place, mask=mask, other=0.0)
    tl.store(out + place, total, mask=mask)
