"""Token kernels against float64, forward and backward, in every combination of types."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from alphagrpo.kernels import launch_tokens, token_log_probs
from alphagrpo.kernels.tiles import plan

FLOAT, BRAIN, HALF = torch.float32, torch.bfloat16, torch.float16
TYPES = [
    (FLOAT, FLOAT),
    (BRAIN, BRAIN),
    (BRAIN, FLOAT),
    (FLOAT, BRAIN),
    (HALF, HALF),
    (HALF, FLOAT),
    (FLOAT, HALF),
    (HALF, BRAIN),
]


def inputs(
    tokens: int, vocabulary: int, width: int, dtype: torch.dtype, head_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).to(dtype)
    head = (torch.randn(vocabulary, width, generator=generator) / 4).to(head_dtype)
    return hidden, head, torch.randint(vocabulary, (tokens,), generator=generator)


def scored(hidden: Tensor, head: Tensor, targets: Tensor, backend: str) -> tuple[Tensor, ...]:
    leaf = hidden.clone().requires_grad_()
    log_probs, entropy = token_log_probs(leaf, head, targets, backend=backend)
    weights = torch.linspace(-1, 1, len(targets))
    (log_probs * weights + 0.3 * entropy).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == hidden.dtype
    return log_probs.detach().double(), entropy.detach().double(), leaf.grad.double()


def check(hidden: Tensor, head: Tensor, targets: Tensor) -> None:
    """Against float64 of the very values that the inputs hold."""
    got = scored(hidden, head, targets, "triton")
    want = scored(hidden.double(), head.double(), targets, "reference")
    tolerance = 2e-6 * (1.0 + (hidden.double() @ head.double().T).abs().max().item())
    assert (got[0] - want[0]).abs().max() < tolerance
    assert (got[1] - want[1]).abs().max() < tolerance
    # The gradient of float32 states keeps float32; that of others is rounded to their type.
    rounding = {FLOAT: 1e-5, BRAIN: 4e-3, HALF: 5e-4}[hidden.dtype]
    assert (got[2] - want[2]).abs().max() < rounding * want[2].abs().max()


@pytest.mark.parametrize(("dtype", "head_dtype"), TYPES)
def test_every_combination_of_types(dtype: torch.dtype, head_dtype: torch.dtype) -> None:
    """A width that is no whole number of blocks, a vocabulary that is none."""
    check(*inputs(5, 300, 48, dtype, head_dtype))


@pytest.mark.parametrize(("dtype", "head_dtype"), [(FLOAT, FLOAT), (BRAIN, BRAIN)])
def test_several_blocks_of_tokens_chunks_of_vocabulary_and_scratch_buffers(
    dtype: torch.dtype, head_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_tokens, "CHUNK", 512)
    monkeypatch.setattr(launch_tokens, "SCRATCH_BYTES", 4 * 131 * 512)
    check(*inputs(131, 1100, 64, dtype, head_dtype))


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9)])
def test_the_block_sizes_of_other_cards(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_tokens, "capability_of", lambda device: capability)
    check(*inputs(70, 400, 64, BRAIN, BRAIN))


def test_a_bfloat16_head_gives_what_its_float32_copy_gives() -> None:
    """The head may be kept as it is released: its products are exact in float32."""
    hidden, head, targets = inputs(9, 500, 64, BRAIN, BRAIN)
    kept, widened = (scored(hidden, h, targets, "triton") for h in (head, head.float()))
    for a, b in zip(kept, widened, strict=True):
        assert (a - b).abs().max() < 2e-6 * (1.0 + b.abs().max())


def test_a_float32_head_beside_bfloat16_states_is_multiplied_whole() -> None:
    """Its second and third eight bits count: rounding it would be off by a thousand times more."""
    hidden, head, targets = inputs(9, 500, 64, BRAIN, FLOAT)
    want = scored(hidden.double(), head.double(), targets, "reference")[0]
    rounded = scored(hidden, head.bfloat16(), targets, "triton")[0]
    whole = scored(hidden, head, targets, "triton")[0]
    assert (rounded - want).abs().max() > 100 * (whole - want).abs().max()


@pytest.mark.parametrize(("dtype", "head_dtype"), [(FLOAT, FLOAT), (BRAIN, BRAIN)])
def test_token_bits_do_not_depend_on_the_batch(dtype: torch.dtype, head_dtype: torch.dtype) -> None:
    hidden, head, targets = inputs(140, 200, 32, dtype, head_dtype)
    together, _ = token_log_probs(hidden, head, targets, backend="triton")
    single, _ = token_log_probs(hidden[139:], head, targets[139:], backend="triton")
    assert torch.equal(single[0], together[139])


def test_bits_are_the_same_with_and_without_gradient_and_at_any_address() -> None:
    hidden, head, targets = inputs(40, 300, 32, BRAIN, BRAIN)
    shifted = torch.empty(40 * 32 + 1, dtype=BRAIN)[1:].view(40, 32).copy_(hidden)
    assert shifted.data_ptr() % 16
    with torch.no_grad():
        rolled = token_log_probs(hidden, head, targets, backend="triton")
    replayed = token_log_probs(shifted.requires_grad_(), head, targets, backend="triton")
    assert all(torch.equal(a, b) for a, b in zip(rolled, replayed, strict=True))


def test_no_tokens_give_no_values_and_no_gradient() -> None:
    hidden, head, targets = inputs(0, 300, 32, BRAIN, BRAIN)
    leaf = hidden.requires_grad_()
    log_probs, entropy = token_log_probs(leaf, head, targets, backend="triton")
    assert log_probs.shape == entropy.shape == (0,)
    log_probs.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.shape == (0, 32)


def test_the_targets_own_last_column_and_a_vocabulary_of_whole_blocks() -> None:
    """The last column is read again for every column past the end, and must count once."""
    hidden, head, _ = inputs(3, 257, 32, BRAIN, BRAIN)
    check(hidden, head, torch.full((3,), 256))
    check(hidden, head[:256], torch.full((3,), 255))


def test_the_plan_in_use_is_the_one_of_a_hopper_card() -> None:
    how = plan(BRAIN, BRAIN, (9, 0))
    assert replace(how) == plan(BRAIN, BRAIN, launch_tokens.capability_of(torch.device("cpu")))
