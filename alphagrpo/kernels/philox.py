"""Counter-based noise: the same numbers on every device from (seed, sample, step).

Philox-4x32 with 10 rounds. The key is the 64-bit seed; the counter is (element, sample, step, 0);
the first two output words become one normal number by Box-Muller. The Triton kernels draw the same
words in the kernel, so no noise tensor is ever stored or sent.

On the CPU the words are computed with numpy, piece by piece; elsewhere with torch, which has no
unsigned numbers of 64 bits to multiply.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint64]

START_STEP = 0xFFFFFFFF
"""Step index that stands for the start noise at t = 1, which no SDE step can have."""

ROUNDS = 10
PIECE = 65536
"""Numbers whose words are computed at one time, in 3 MiB of scratch."""
_OWN = threading.local()
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
        counter: four int64 tensors holding 32-bit words, one of them of one axis or more.
    """
    if seed.device.type != "cpu":
        return torch_words(seed, counter)
    arrays = [tensor.numpy() for tensor in (seed, *counter)]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    words = np.empty((2, *shape), np.int64)
    for columns, first, second in _pieces(arrays):
        words[0][..., columns], words[1][..., columns] = first, second
    return torch.from_numpy(words[0]), torch.from_numpy(words[1])


def torch_words(
    seed: Tensor, counter: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """As :func:`philox`, on any device: one operation after another over whole tensors."""
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


def _pieces(arrays: Sequence[NDArray[np.int64]]) -> Iterator[tuple[slice, Words, Words]]:
    """The two words of (seed, *counter), a limited number of columns at a time."""
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    words = [array.view(np.uint64) for array in arrays]
    columns = max(1, PIECE // max(1, math.prod(shape[:-1])))
    for start in range(0, shape[-1], columns):
        piece = slice(start, start + columns)
        seed, *counter = (w[..., piece] if w.shape[-1:] == shape[-1:] else w for w in words)
        width = min(columns, shape[-1] - start)
        yield piece, *_rounds(seed, counter, (*shape[:-1], width))


def _rounds(seed: Words, counter: Sequence[Words], shape: tuple[int, ...]) -> tuple[Words, Words]:
    """Two of the four words at a time: (c0, c2), which are multiplied, and (c1, c3).

    The results are good until the thread's next call.
    """
    multiplied, other, products = _scratch(6 * math.prod(shape)).reshape(3, 2, *shape)
    multiplied[0], other[0], multiplied[1], other[1] = counter
    axes = (2, *(1,) * len(shape))
    factors = np.array([_MULTIPLIER_A, _MULTIPLIER_B], np.uint64).reshape(axes)
    k0, k1 = seed & _WORD, seed >> 32
    for _ in range(ROUNDS):
        np.multiply(multiplied, factors, out=products)
        crossed = products[::-1]
        np.right_shift(crossed, 32, out=multiplied)
        multiplied ^= other
        multiplied[0] ^= k0
        multiplied[1] ^= k1
        multiplied &= _WORD  # the upper half came from ``other``, a product of the round before
        k0, k1 = (k0 + _KEY_A) & _WORD, (k1 + _KEY_B) & _WORD
        other, products = crossed, other
    return multiplied[0], np.bitwise_and(other[0], _WORD, out=multiplied[1])


def _scratch(size: int) -> Words:
    """The thread's own buffer: fresh memory would cost more than the arithmetic."""
    if getattr(_OWN, "buffer", np.empty(0)).size < size:
        _OWN.buffer = np.empty(size, np.uint64)
    return _OWN.buffer[:size]


def uniform(word: Tensor) -> Tensor:
    """Float32 in [0, 1) of 32-bit words held as int64: sign bit folded, then scaled."""
    signed = word.to(torch.int32)  # keeps the lower 32 bits
    return (signed ^ (signed >> 31)).float() * UNIFORM_SCALE


def normal(first: Tensor, second: Tensor) -> Tensor:
    """Box-Muller: ``sqrt(-2 log u1) cos(2 pi u2)`` of two words, as float32.

    The elementary functions run in float64 and are rounded once: their float32 versions differ
    between vector widths and libraries, and these bits must not.
    """
    radius = uniform(first).clamp_min_(SMALLEST_UNIFORM).double().log_().mul_(-2.0).sqrt_()
    angle = uniform(second).mul_(2.0 * math.pi).double()
    return radius.mul_(angle.cos_()).float()


def reference_noise(seeds: Tensor, samples: Tensor, step: int, size: int) -> Tensor:
    """Standard normal noise [B, size] of each (seed, sample) at ``step``, in plain torch.

    Args:
        seeds: [B] int64.
        samples: [B] int64 in [0, 2^32).
        step: index of the step, or :data:`START_STEP`.
        size: numbers per sample, below 2^32.
    """
    element = torch.arange(size, device=seeds.device)[None, :]
    zero = element.new_zeros(1, 1)
    counter = (element, samples[:, None], zero + step, zero)
    if seeds.device.type != "cpu":
        return normal(*torch_words(seeds[:, None], counter))
    noise = torch.empty(seeds.shape[0], size)
    arrays = [tensor.numpy() for tensor in (seeds[:, None], *counter)]
    for columns, first, second in _pieces(arrays):
        words = (torch.from_numpy(word.view(np.int64)) for word in (first, second))
        noise[:, columns] = normal(*words)
    return noise
