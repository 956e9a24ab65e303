"""Block sizes of the token kernels: a function of types and card alone.

Nothing is tuned at run time. Rollout and replay may be different processes, and another block size
is another order of summation.

What decides is how much a tile reads for how much it multiplies. A Hopper multiprocessor multiplies
2,048 pairs of half-precision numbers a clock. A tile of 64 x 128 then asks the second-level cache
for 96 bytes a clock, one of 128 x 256 for 48; the former ran on an H200 at 43 % of what the card
multiplies, which is 41 bytes. An A100 multiplies half as much a clock: 128 x 128 asks for 32.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from alphagrpo.kernels.launch import interpreted

Capability = tuple[int, int]
"""Compute capability, (major, minor)."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One block of a product: ``rows x columns``, read ``depth`` deep at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    """Reads under way at one time; each holds its piece of both operands in shared memory."""


GROUP = 16
"""Blocks of rows that run at one time: 16 of them and their 8 or so columns fit the cache."""

SINGLE = Tile(64, 128, 32, warps=4, stages=3)
"""Float32 products, which no tensor core computes: 64 sums a thread."""
SPLIT = Tile(128, 128, 32, warps=8, stages=2)
"""One operand is float32 and is cut into bfloat16 parts on the way."""
HALF: dict[int, tuple[Tile, Tile]] = {
    99: (Tile(128, 128, 32, warps=8, stages=4), Tile(128, 128, 32, warps=8, stages=3)),
    163: (Tile(128, 128, 64, warps=8, stages=4), Tile(128, 128, 64, warps=8, stages=3)),
    227: (Tile(128, 256, 64, warps=8, stages=4), Tile(128, 256, 64, warps=8, stages=3)),
}
"""By KiB of shared memory: half-precision logits, and their gradient in two planes. The largest
take 192 KiB and leave each of 256 threads 128 sums; before Hopper sums compete with operands for
registers, and 128 a thread would spill."""
SHARED: dict[Capability, int] = {(8, 0): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227}
"""KiB of shared memory a program may have; all other cards with bfloat16 have 99 or more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How hidden states of one type are multiplied with a head of another on one card."""

    kind: torch.dtype
    """Type of the products of the logits; their sums are float32."""
    hidden_parts: int
    head_parts: int
    """3 where this operand is float32 and is multiplied as the sum of three bfloat16 parts."""
    planes: int
    """Into how many bfloat16 planes the logits' gradient is cut: 2 keep 16 of its bits, 3 all;
    1 is float32, uncut."""
    logits: Tile
    gradient: Tile


def plan(hidden: torch.dtype, head: torch.dtype, capability: Capability) -> Plan:
    """The plan for a card of compute capability ``capability``.

    Tensor cores multiply wherever one operand is bfloat16, or both are float16; a float32 operand
    beside a bfloat16 one costs three products, each exact. Two float32 operands, and float16 beside
    another type, are multiplied in float32 without tensor cores.
    """
    single = Plan(torch.float32, 1, 1, 1, SINGLE, SINGLE)
    if capability < (8, 0):  # no bfloat16 there
        return single
    logits, planes = HALF[SHARED.get(capability, 99)]
    if hidden == head == torch.float16:
        # A gradient is too small for float16's exponent.
        return Plan(torch.float16, 1, 1, 1, logits, SINGLE)
    if hidden == head == torch.bfloat16:
        return Plan(torch.bfloat16, 1, 1, 2, logits, planes)
    if {hidden, head} == {torch.bfloat16, torch.float32}:
        if head == torch.float32:
            return Plan(torch.bfloat16, 1, 3, 2, SPLIT, SPLIT)
        return Plan(torch.bfloat16, 3, 1, 3, SPLIT, SPLIT)
    return single


@functools.cache
def capability_of(device: torch.device) -> Capability:
    """Compute capability of a CUDA device; in the interpreter, Hopper's."""
    return (9, 0) if interpreted() else torch.cuda.get_device_capability(device)
