"""Block sizes: what a card multiplies how, and what fits its shared memory."""

from __future__ import annotations

import pytest
import torch

from alphagrpo.kernels import has_triton

if has_triton():
    from alphagrpo.kernels.launch import aligned
    from alphagrpo.kernels.tiles import plan

pytestmark = pytest.mark.skipif(not has_triton(), reason="triton is not installed")

FLOAT, BRAIN, HALF = torch.float32, torch.bfloat16, torch.float16
SHARED = {(8, 0): 163, (8, 6): 99, (8, 9): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}
"""KiB of shared memory that a program may have, by compute capability."""


def operand_bytes(tile, kinds: tuple[torch.dtype, torch.dtype], planes: int = 1) -> int:
    """Of the pieces under way of a left operand in planes, and a right one."""
    left, right = (kind.itemsize for kind in kinds)
    return tile.stages * tile.depth * (planes * left * tile.rows + right * tile.columns)


@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("hidden", [FLOAT, BRAIN, HALF])
@pytest.mark.parametrize("head", [FLOAT, BRAIN, HALF])
def test_every_plan_fits_its_card(capability, hidden, head):
    how = plan(hidden, head, capability)
    limit = 1024 * SHARED[capability]
    split = 3 * BRAIN.itemsize * how.logits.depth * max(how.logits.rows, how.logits.columns)
    parts = split if max(how.hidden_parts, how.head_parts) == 3 else 0
    assert operand_bytes(how.logits, (hidden, head)) + parts <= limit
    kind = FLOAT if how.planes == 1 else BRAIN
    assert operand_bytes(how.gradient, (kind, head), how.planes) + parts <= limit


@pytest.mark.parametrize("capability", SHARED)
def test_tensor_cores_multiply_wherever_an_operand_is_bfloat16(capability):
    kinds = {pair: plan(*pair, capability) for pair in [(BRAIN, BRAIN), (BRAIN, FLOAT)]}
    kinds[FLOAT, BRAIN] = plan(FLOAT, BRAIN, capability)
    assert {how.kind for how in kinds.values()} == {BRAIN}
    assert [(how.hidden_parts, how.head_parts) for how in kinds.values()] == [
        (1, 1),
        (1, 3),
        (3, 1),
    ]
    # A float32 gradient keeps all its bits, one that is rounded to bfloat16 twice those it needs.
    assert [how.planes for how in kinds.values()] == [2, 2, 3]
    assert plan(FLOAT, FLOAT, capability).kind == FLOAT


def test_a_card_without_bfloat16_multiplies_in_float32():
    assert plan(BRAIN, BRAIN, (7, 5)).kind == FLOAT


def test_launches_get_contiguous_memory_at_an_aligned_address():
    """Another address or stride would be another compiled kernel, with other bits."""
    whole = torch.arange(64.0).view(8, 8)
    assert aligned(whole) is whole
    for view in (whole.flatten()[1:33], whole.T, whole[:, 1:]):
        ready = aligned(view)
        assert torch.equal(ready, view)
        assert ready.is_contiguous()
        assert ready.data_ptr() % 16 == 0
