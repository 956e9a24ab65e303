"""Counter-based noise: the same numbers on every device from (seed, sample, step).

Philox-4x32 with 10 rounds. The key is the 64-bit seed; the counter is (element, sample, step, 0);
the first two output words become one normal number by Box-Muller. The Triton kernels draw the same
words in the kernel, so no noise tensor is ever stored or sent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

START_STEP = 0xFFFFFFFF
"""Step index that stands for the start noise at t = 1, which no SDE step can have."""

ROUNDS = 10
_WORD = 0xFFFFFFFF
_MULTIPLIER_A, _MULTIPLIER_B = 0xD2511F53, 0xCD9E8D57
_KEY_A, _KEY_B = 0x9E3779B9, 0xBB67AE85

UNIFORM_SCALE = 4.6566127342e-10
"""Just under 2^-31, so that the largest 31-bit integer still maps below 1 in float32."""
SMALLEST_UNIFORM = 1.0e-7
"""Floor under the logarithm's argument; bounds a draw to |noise| < 5.7."""


def philox(seed: Tensor, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The first two 32-bit output words, as int64 in [0, 2^32).

    Args:
        seed: int64, broadcastable to the counters; its 64 bits are the key.
        counter: four int64 tensors holding 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(ROUNDS):
        # int64 products wrap modulo 2^64, which keeps exactly the bits that are wanted.
        product_a, product_b = c0 * _MULTIPLIER_A, c2 * _MULTIPLIER_B
        c0 = ((product_b >> 32) & _WORD) ^ c1 ^ k0
        c2 = ((product_a >> 32) & _WORD) ^ c3 ^ k1
        c1, c3 = product_b & _WORD, product_a & _WORD
        k0, k1 = (k0 + _KEY_A) & _WORD, (k1 + _KEY_B) & _WORD
    return c0, c1


def uniform(word: Tensor) -> Tensor:
    """Float32 in [0, 1) of 32-bit words held as int64: sign bit folded, then scaled."""
    signed = torch.where(word > 0x7FFFFFFF, word - (1 << 32), word)
    folded = torch.where(signed < 0, -signed - 1, signed)
    return folded.float() * UNIFORM_SCALE


def normal(first: Tensor, second: Tensor) -> Tensor:
    """Box-Muller: ``sqrt(-2 log u1) cos(2 pi u2)`` of two words, as float32.

    The elementary functions run in float64 and are rounded once: their float32 versions differ
    between vector widths and libraries, and these bits must not.
    """
    u1 = uniform(first).clamp_min(SMALLEST_UNIFORM).double()
    angle = (uniform(second) * (2.0 * math.pi)).double()
    return ((-2.0 * u1.log()).sqrt() * angle.cos()).float()


def reference_noise(seeds: Tensor, samples: Tensor, step: int, size: int) -> Tensor:
    """Standard normal noise [B, size] of each (seed, sample) at ``step``, in plain torch.

    Args:
        seeds: [B] int64.
        samples: [B] int64 in [0, 2^32).
        step: index of the step, or :data:`START_STEP`.
        size: numbers per sample, below 2^32.
    """
    element = torch.arange(size, dtype=torch.int64, device=seeds.device)[None, :]
    zero = torch.zeros_like(element)
    words = philox(seeds[:, None], (element, samples[:, None] + zero, zero + step, zero))
    return normal(*words)
