"""Triton: log-probability and entropy of tokens from hidden states and the output head.

The logits exist only as tiles. The vocabulary is cut into chunks of fixed size, each reduced on
line by its own program, so that few tokens still occupy many multiprocessors and the order of
summation does not depend on the batch.

Rows and columns past the end read the last one, and what they give is dropped: an unmasked load
goes straight to shared memory. WIDEN is for Triton's interpreter alone, which would multiply the
bit patterns of bfloat16 as integers.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernel arguments are pointers and blocks, which have no Python type.

from __future__ import annotations

import triton
import triton.language as tl

RUN_TIME = ["T", "V", "splits", "row_blocks", "column_blocks", "first"]
"""Not specialised on: one compiled kernel for every number of tokens."""


@triton.jit
def tile_place(row_blocks, column_blocks, GROUP: tl.constexpr):
    """Block of rows and block of columns of this program.

    Programs of near numbers, which run at one time, form a rectangle GROUP blocks of rows high:
    what they read of both operands then fits the second-level cache.
    """
    program = tl.program_id(0)
    first = program // (GROUP * column_blocks) * GROUP
    height = tl.minimum(row_blocks - first, GROUP)
    inside = program % (GROUP * column_blocks)
    return first + inside % height, inside // height


@triton.jit
def multiply(a, b, total, WIDEN: tl.constexpr):
    """``total + a @ b`` on tensor cores for half precision; sums are float32 always."""
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def brain_parts(x):
    """A float32 tile as the exact sum of three bfloat16 tiles, 8 bits of its 24 in each."""
    high = x.to(tl.bfloat16)
    rest = x - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
    return high, middle, low


@triton.jit
def logits_tile(
    hidden, head, rows, columns, T, V, D: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, COMPUTE: tl.constexpr,
    HIDDEN_PARTS: tl.constexpr, HEAD_PARTS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """[BLOCK_T, BLOCK_V] logits in float32; those of rows and columns out of range mean nothing."""
    inner = tl.arange(0, BLOCK_D)
    h_place = hidden + tl.minimum(rows, T - 1).to(tl.int64)[:, None] * D + inner[None, :]
    w_place = head + tl.minimum(columns, V - 1).to(tl.int64)[None, :] * D + inner[:, None]
    logits = tl.zeros([BLOCK_T, BLOCK_V], tl.float32)
    for start in range(0, D, BLOCK_D):
        if D % BLOCK_D == 0:
            h = tl.load(h_place)
            w = tl.load(w_place)
        else:
            within = start + inner < D
            h = tl.load(h_place, mask=within[None, :], other=0.0)
            w = tl.load(w_place, mask=within[:, None], other=0.0)
        h_place += BLOCK_D
        w_place += BLOCK_D
        if HIDDEN_PARTS == 3:
            high, middle, low = brain_parts(h)
            logits = multiply(low, w, logits, WIDEN)
            logits = multiply(middle, w, logits, WIDEN)
            logits = multiply(high, w, logits, WIDEN)
        elif HEAD_PARTS == 3:
            high, middle, low = brain_parts(w)
            logits = multiply(h, low, logits, WIDEN)
            logits = multiply(h, middle, logits, WIDEN)
            logits = multiply(h, high, logits, WIDEN)
        else:
            logits = multiply(h.to(COMPUTE), w.to(COMPUTE), logits, WIDEN)
    return logits


@triton.jit(do_not_specialize=RUN_TIME)
def partials_kernel(
    hidden, head, targets, maxima, sums, weighted, chosen, T, V, row_blocks, splits,
    D: tl.constexpr, CHUNK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr, GROUP: tl.constexpr, COMPUTE: tl.constexpr,
    HIDDEN_PARTS: tl.constexpr, HEAD_PARTS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Reduce one chunk of the vocabulary for a block of tokens.

    Stores the chunk's largest logit m, ``sum e^(z - m)``, ``sum e^(z - m) (z - m)`` and, if it lies
    in the chunk, the target's logit. Moments about m keep the entropy free of cancellation.
    """
    row_block, split = tile_place(row_blocks, splits, GROUP)
    rows = row_block * BLOCK_T + tl.arange(0, BLOCK_T)
    target = tl.load(targets + rows, mask=rows < T, other=-1)
    highest = tl.full([BLOCK_T], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_T], tl.float32)
    moment = tl.zeros([BLOCK_T], tl.float32)
    picked = tl.zeros([BLOCK_T], tl.float32)
    for offset in range(0, tl.minimum(CHUNK, V - split * CHUNK), BLOCK_V):
        columns = split * CHUNK + offset + tl.arange(0, BLOCK_V)
        real = (columns < V)[None, :]
        logits = logits_tile(
            hidden, head, rows, columns, T, V, D, BLOCK_T, BLOCK_V, BLOCK_D, COMPUTE,
            HIDDEN_PARTS, HEAD_PARTS, WIDEN,
        )  # fmt: skip
        new_highest = tl.maximum(highest, tl.max(tl.where(real, logits, float("-inf")), 1))
        shift = tl.where(total > 0.0, highest - new_highest, 0.0)
        below = logits - new_highest[:, None]
        mass = tl.where(real, tl.exp(below), 0.0)
        moment = (moment + shift * total) * tl.exp(shift) + tl.sum(mass * below, 1)
        total = total * tl.exp(shift) + tl.sum(mass, 1)
        picked += tl.sum(tl.where(columns[None, :] == target[:, None], logits, 0.0), 1)
        highest = new_highest
    place = rows.to(tl.int64) * splits + split
    tl.store(maxima + place, highest, mask=rows < T)
    tl.store(sums + place, total, mask=rows < T)
    tl.store(weighted + place, moment, mask=rows < T)
    tl.store(chosen + place, picked, mask=rows < T)


@triton.jit(do_not_specialize=RUN_TIME)
def logit_gradient_kernel(
    hidden, head, targets, normaliser, entropy, grad_log_prob, grad_entropy, out, first, T, V,
    row_blocks, column_blocks, D: tl.constexpr, PLANES: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, GROUP: tl.constexpr, COMPUTE: tl.constexpr,
    HIDDEN_PARTS: tl.constexpr, HEAD_PARTS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Gradient of one chunk's recomputed logits: g (1[j = y] - p) - h p (log p + entropy).

    ``out`` [PLANES, T, chunk] is of a type with fewer bits than float32, unless PLANES is 1: the
    gradient is the sum of its planes. What stands there past the vocabulary is never read, or
    multiplied with 0.
    """
    row_block, column_block = tile_place(row_blocks, column_blocks, GROUP)
    rows = row_block * BLOCK_T + tl.arange(0, BLOCK_T)
    local = column_block * BLOCK_V + tl.arange(0, BLOCK_V)
    columns = first + local
    known = rows < T
    logits = logits_tile(
        hidden, head, rows, columns, T, V, D, BLOCK_T, BLOCK_V, BLOCK_D, COMPUTE,
        HIDDEN_PARTS, HEAD_PARTS, WIDEN,
    )  # fmt: skip
    log_sum = tl.load(normaliser + rows, mask=known, other=0.0)
    spread = tl.load(entropy + rows, mask=known, other=0.0)
    target = tl.load(targets + rows, mask=known, other=-1)
    g = tl.load(grad_log_prob + rows, mask=known, other=0.0)
    h = tl.load(grad_entropy + rows, mask=known, other=0.0)
    log_p = logits - log_sum[:, None]
    share = g[:, None] + h[:, None] * (log_p + spread[:, None])
    hit = columns[None, :] == target[:, None]
    grad = tl.where(hit, g[:, None], 0.0) - tl.exp(log_p) * share
    width = column_blocks.to(tl.int64) * BLOCK_V
    place = out + rows.to(tl.int64)[:, None] * width + local[None, :]
    if PLANES == 1:
        tl.store(place, grad, mask=known[:, None])
    else:
        high, middle, low = brain_parts(grad)
        tl.store(place, high, mask=known[:, None])
        tl.store(place + T * width, middle, mask=known[:, None])
        if PLANES == 3:
            tl.store(place + 2 * T * width, low, mask=known[:, None])


@triton.jit(do_not_specialize=RUN_TIME)
def hidden_gradient_kernel(
    grad_logits, head, out, first, T, V, row_blocks, column_blocks, D: tl.constexpr,
    PLANES: tl.constexpr, CHUNK_BLOCK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr, HEAD_PARTS: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """Add one chunk's ``grad_logits @ head`` to ``out`` [T, D]; each element has one owner.

    ``column_blocks`` counts the chunk's blocks of CHUNK_BLOCK columns; WHOLE says that vocabulary
    and width are whole numbers of this kernel's blocks. Two planes of the gradient
    keep 16 of its bits, and with a float32 head the terms of that size are kept; three keep all.
    """
    row_block, inner_block = tile_place(row_blocks, tl.cdiv(D, BLOCK_D), GROUP)
    rows = row_block * BLOCK_T + tl.arange(0, BLOCK_T)
    inner = inner_block * BLOCK_D + tl.arange(0, BLOCK_D)
    local = tl.arange(0, BLOCK_V)
    width = column_blocks.to(tl.int64) * CHUNK_BLOCK
    grad_place = grad_logits + tl.minimum(rows, T - 1).to(tl.int64)[:, None] * width
    grad_place += local[None, :]
    w_place = head + (first + local).to(tl.int64)[:, None] * D + inner[None, :]
    total = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for offset in range(0, tl.minimum(column_blocks * CHUNK_BLOCK, V - first), BLOCK_V):
        if WHOLE:
            w = tl.load(w_place)
        else:
            known = (first + offset + local < V)[:, None] & (inner < D)[None, :]
            w = tl.load(w_place, mask=known, other=0.0)
        high = tl.load(grad_place)
        if PLANES == 1:
            total = multiply(high, w.to(tl.float32), total, WIDEN)
        else:
            middle = tl.load(grad_place + T * width)
            if HEAD_PARTS == 3:
                w, w_middle, _ = brain_parts(w)
                total = multiply(high, w_middle, total, WIDEN)
            elif PLANES == 3:
                low = tl.load(grad_place + 2 * T * width)
                total = multiply(low, w, total, WIDEN)
            total = multiply(middle, w, total, WIDEN)
            total = multiply(high, w, total, WIDEN)
        grad_place += BLOCK_V
        w_place += BLOCK_V * D
    mask = (rows < T)[:, None] & (inner < D)[None, :]
    place = out + rows.to(tl.int64)[:, None] * D + inner[None, :]
    tl.store(place, total + tl.load(place, mask=mask, other=0.0), mask=mask)
