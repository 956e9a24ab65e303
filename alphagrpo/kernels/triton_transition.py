"""Triton: guidance, renormalisation, SDE transition, noise and log-probability in one kernel.

One program works on one sample and walks over its tiles in order, so a sample's bits do not depend
on the batch. Rollout and replay run the *same* compiled kernel: whether x_next is sampled or loaded
is a run-time argument, and the instructions after that point are shared.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernel arguments are pointers and blocks, which have no Python type.

from __future__ import annotations

import triton
import triton.language as tl

GLOBAL = tl.constexpr(1)
CHANNEL = tl.constexpr(2)
TEXT_CHANNEL = tl.constexpr(3)
RENORM_CODES = {"none": 0, "global": 1, "channel": 2, "text_channel": 3}

NORM_EPSILON = tl.constexpr(1e-8)
MIN_SQUARED_NORM = tl.constexpr(1e-30)


@triton.jit
def standard_normal(seed, sample, step, element):
    """The draw of counter (element, sample, step, 0) under the key ``seed``."""
    zero = element * 0
    c1 = zero + sample.to(tl.uint32)
    c2 = zero + step.to(tl.uint32)
    words = tl.philox(seed, element, c1, c2, zero)
    u1 = tl.uint_to_uniform_float(words[0])
    u2 = tl.uint_to_uniform_float(words[1])
    return tl.pair_uniform_to_normal(u1, u2)[0]


@triton.jit
def renorm_terms(cond_squares, guided_squares, renorm_min):
    """The clamped factor |c| / |a|, and p, q with d factor / dc = p c and d factor / da = q a."""
    cond_norm = tl.sqrt(tl.maximum(cond_squares, MIN_SQUARED_NORM))
    guided_norm = tl.sqrt(tl.maximum(guided_squares, MIN_SQUARED_NORM))
    ratio = cond_norm / (guided_norm + NORM_EPSILON)
    factor = tl.minimum(tl.maximum(ratio, renorm_min), 1.0)
    slope = tl.where((ratio >= renorm_min) & (ratio <= 1.0), 1.0 / (guided_norm + NORM_EPSILON), 0)
    to_cond = tl.where(cond_squares >= MIN_SQUARED_NORM, slope / cond_norm, 0.0)
    to_guided = tl.where(guided_squares >= MIN_SQUARED_NORM, -slope * ratio / guided_norm, 0.0)
    return factor, to_cond, to_guided


@triton.jit
def combine_branches(
    c, u, i, text_scale, image_scale, renorm_min, BRANCHES: tl.constexpr, RENORM: tl.constexpr
):
    """A tile's guided velocity before global or channel renorm, and its text part before any."""
    text = c
    guided = c
    if BRANCHES > 1:
        text = u + text_scale * (c - u)
        guided = text
        if RENORM == TEXT_CHANNEL:
            factor = renorm_terms(tl.sum(c * c, 1), tl.sum(text * text, 1), renorm_min)[0]
            guided = text * factor[:, None]
        if BRANCHES == 3:
            guided = i + image_scale * (guided - i)
    return guided, text


@triton.jit
def load_branches(cond, text, image, offsets, mask, BRANCHES: tl.constexpr):
    """The tile's velocities; a branch that does not exist is read as the conditional one."""
    c = tl.load(cond + offsets, mask=mask, other=0.0)
    u = c
    i = c
    if BRANCHES > 1:
        u = tl.load(text + offsets, mask=mask, other=0.0)
    if BRANCHES == 3:
        i = tl.load(image + offsets, mask=mask, other=0.0)
    return c, u, i


@triton.jit
def tile_offsets(
    start, N: tl.constexpr, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Offsets inside one sample of the tile of tokens from ``start``, and which of them exist."""
    tokens = start + tl.arange(0, BLOCK_N)
    channels = tl.arange(0, BLOCK_C)
    mask = (tokens < N)[:, None] & (channels < C)[None, :]
    return tokens[:, None] * C + channels[None, :], mask


@triton.jit
def global_squares(
    cond, text, image, base, text_scale, image_scale, renorm_min,
    N: tl.constexpr, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    BRANCHES: tl.constexpr, RENORM: tl.constexpr,
):  # fmt: skip
    """Sums of squares of the conditional and the guided velocity of one sample."""
    cond_squares = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    guided_squares = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for start in range(0, N, BLOCK_N):
        offsets, mask = tile_offsets(start, N, C, BLOCK_N, BLOCK_C)
        c, u, i = load_branches(cond, text, image, base + offsets, mask, BRANCHES)
        guided = combine_branches(c, u, i, text_scale, image_scale, renorm_min, BRANCHES, RENORM)[0]
        cond_squares += c * c
        guided_squares += guided * guided
    return tl.sum(tl.sum(cond_squares, 1), 0), tl.sum(tl.sum(guided_squares, 1), 0)


@triton.jit(do_not_specialize=["step", "draw"])
def transition_kernel(
    cond, text, image, x_ptr, x_next_ptr, mean_ptr, log_prob_ptr, coefficients, seeds, samples,
    step, draw, text_scale, image_scale, renorm_min,
    N: tl.constexpr, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    BRANCHES: tl.constexpr, RENORM: tl.constexpr,
):  # fmt: skip
    """Draw (``draw`` != 0) or read x_next, and score it; program b handles sample b."""
    row = tl.program_id(0)
    base = row.to(tl.int64) * (N * C)
    x_weight = tl.load(coefficients + row * 4)
    v_weight = tl.load(coefficients + row * 4 + 1)
    noise_scale = tl.load(coefficients + row * 4 + 2)
    weight = tl.load(coefficients + row * 4 + 3)
    seed = tl.load(seeds + row)
    sample = tl.load(samples + row)
    if BRANCHES > 1 and RENORM == GLOBAL:
        cond_squares, guided_squares = global_squares(
            cond, text, image, base, text_scale, image_scale, renorm_min,
            N, C, BLOCK_N, BLOCK_C, BRANCHES, RENORM,
        )  # fmt: skip
        whole = renorm_terms(cond_squares, guided_squares, renorm_min)[0]
    total = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for start in range(0, N, BLOCK_N):
        offsets, mask = tile_offsets(start, N, C, BLOCK_N, BLOCK_C)
        c, u, i = load_branches(cond, text, image, base + offsets, mask, BRANCHES)
        v = combine_branches(c, u, i, text_scale, image_scale, renorm_min, BRANCHES, RENORM)[0]
        if BRANCHES > 1 and RENORM == CHANNEL:
            factor = renorm_terms(tl.sum(c * c, 1), tl.sum(v * v, 1), renorm_min)[0]
            v = v * factor[:, None]
        if BRANCHES > 1 and RENORM == GLOBAL:
            v = v * whole
        x = tl.load(x_ptr + base + offsets, mask=mask, other=0.0)
        mean = x_weight * x + v_weight * v
        tl.store(mean_ptr + base + offsets, mean, mask=mask)
        if draw != 0:
            noise = standard_normal(seed, sample, step, offsets.to(tl.uint32))
            x_next = mean + noise_scale * noise
            tl.store(x_next_ptr + base + offsets, x_next, mask=mask)
        else:
            x_next = tl.load(x_next_ptr + base + offsets, mask=mask, other=0.0)
        difference = x_next - mean
        total += tl.where(mask, difference * difference * weight, 0.0)
    tl.store(log_prob_ptr + row, -tl.sum(tl.sum(total, 1), 0) / (N * C))


@triton.jit
def mean_gradient(
    x_next_ptr, mean_ptr, grad_mean_ptr, offsets, mask, pull, v_weight, HAS_GRAD_MEAN: tl.constexpr
):
    """Gradient reaching the guided velocity: from the log-probability and from the mean itself."""
    x_next = tl.load(x_next_ptr + offsets, mask=mask, other=0.0)
    mean = tl.load(mean_ptr + offsets, mask=mask, other=0.0)
    grad = pull * (x_next - mean)
    if HAS_GRAD_MEAN:
        grad += tl.load(grad_mean_ptr + offsets, mask=mask, other=0.0)
    return grad * v_weight


@triton.jit
def transition_backward_kernel(
    cond, text, image, x_next_ptr, mean_ptr, coefficients, grad_log_prob, grad_mean_ptr,
    grad_cond, grad_text, grad_image, text_scale, image_scale, renorm_min,
    N: tl.constexpr, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    BRANCHES: tl.constexpr, RENORM: tl.constexpr, HAS_GRAD_MEAN: tl.constexpr,
):  # fmt: skip
    """Gradients of the velocity branches, through the renormalisation; program b, sample b."""
    row = tl.program_id(0)
    base = row.to(tl.int64) * (N * C)
    v_weight = tl.load(coefficients + row * 4 + 1)
    weight = tl.load(coefficients + row * 4 + 3)
    pull = tl.load(grad_log_prob + row) * 2.0 * weight / (N * C)
    if BRANCHES > 1 and RENORM == GLOBAL:
        cond_squares, guided_squares = global_squares(
            cond, text, image, base, text_scale, image_scale, renorm_min,
            N, C, BLOCK_N, BLOCK_C, BRANCHES, RENORM,
        )  # fmt: skip
        whole, whole_cond, whole_guided = renorm_terms(cond_squares, guided_squares, renorm_min)
        dots = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
        for start in range(0, N, BLOCK_N):
            offsets, mask = tile_offsets(start, N, C, BLOCK_N, BLOCK_C)
            c, u, i = load_branches(cond, text, image, base + offsets, mask, BRANCHES)
            guided = combine_branches(
                c, u, i, text_scale, image_scale, renorm_min, BRANCHES, RENORM
            )[0]
            grad = mean_gradient(
                x_next_ptr, mean_ptr, grad_mean_ptr, base + offsets, mask, pull, v_weight,
                HAS_GRAD_MEAN,
            )  # fmt: skip
            dots += grad * guided
        dot = tl.sum(tl.sum(dots, 1), 0)
    for start in range(0, N, BLOCK_N):
        offsets, mask = tile_offsets(start, N, C, BLOCK_N, BLOCK_C)
        c, u, i = load_branches(cond, text, image, base + offsets, mask, BRANCHES)
        grad = mean_gradient(
            x_next_ptr, mean_ptr, grad_mean_ptr, base + offsets, mask, pull, v_weight,
            HAS_GRAD_MEAN,
        )  # fmt: skip
        if BRANCHES > 1:
            guided, raw = combine_branches(
                c, u, i, text_scale, image_scale, renorm_min, BRANCHES, RENORM
            )
            to_c = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
            if RENORM == GLOBAL:
                to_c = dot * whole_cond * c
                grad = whole * grad + dot * whole_guided * guided
            if RENORM == CHANNEL:
                to_c, grad = renorm_backward(c, guided, grad, renorm_min)
            if BRANCHES == 3:
                tl.store(grad_image + base + offsets, (1.0 - image_scale) * grad, mask=mask)
                grad = image_scale * grad
            if RENORM == TEXT_CHANNEL:
                to_c, grad = renorm_backward(c, raw, grad, renorm_min)
            tl.store(grad_text + base + offsets, (1.0 - text_scale) * grad, mask=mask)
            grad = to_c + text_scale * grad
        tl.store(grad_cond + base + offsets, grad, mask=mask)


@triton.jit
def renorm_backward(c, a, grad, renorm_min):
    """Backward of the per-token ``factor(c, a) a``: what reaches c through the factor, and a."""
    factor, to_cond, to_guided = renorm_terms(tl.sum(c * c, 1), tl.sum(a * a, 1), renorm_min)
    dot = tl.sum(grad * a, 1)
    through_factor = (dot * to_cond)[:, None] * c
    return through_factor, factor[:, None] * grad + (dot * to_guided)[:, None] * a


@triton.jit(do_not_specialize=["step"])
def noise_kernel(seeds, samples, out, step, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Fill row b of ``out`` [B, SIZE] with the noise of (seed_b, sample_b, step)."""
    row = tl.program_id(0)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    noise = standard_normal(
        tl.load(seeds + row), tl.load(samples + row), step, element.to(tl.uint32)
    )
    tl.store(out + row.to(tl.int64) * SIZE + element, noise, mask=element < SIZE)
