"""Per-token log-probability and entropy on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from alphagrpo.kernels import reference, token_log_probs
from alphagrpo.kernels.reference import TOKEN_CHUNK


def inputs(tokens: int, vocabulary: int = 50, width: int = 16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).to(dtype)
    head = torch.randn(vocabulary, width, generator=generator).to(dtype)
    return hidden, head, torch.randint(vocabulary, (tokens,), generator=generator)


@pytest.mark.parametrize("tokens", [1, 7, TOKEN_CHUNK + 3])
def test_values_are_those_of_the_softmax(tokens):
    hidden, head, targets = inputs(tokens)
    log_probs, entropy = token_log_probs(hidden, head, targets)
    softmax = torch.distributions.Categorical(logits=hidden.double() @ head.double().T)
    assert torch.allclose(log_probs.double(), softmax.log_prob(targets), atol=1e-5)
    assert torch.allclose(entropy.double(), softmax.entropy(), atol=1e-5)


def test_gradients_pass_gradcheck():
    hidden, head, targets = inputs(3, vocabulary=7, width=4, dtype=torch.float64)
    hidden.requires_grad_()
    assert torch.autograd.gradcheck(lambda h: token_log_probs(h, head, targets), (hidden,))


def test_half_precision_inputs_are_multiplied_in_float32():
    hidden, head, targets = inputs(5, dtype=torch.bfloat16)
    log_probs, _ = token_log_probs(hidden, head, targets)
    exact, _ = token_log_probs(hidden.double(), head.double(), targets)
    rounded = (hidden @ head.T).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    assert log_probs.dtype == torch.float32
    assert (log_probs - exact).abs().max() < 1e-5
    assert (rounded - exact).abs().max() > 1e-3  # what a bfloat16 head would have cost


HALF_HEADS = [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)]
OTHERS = [(torch.bfloat16, torch.float32), (torch.float16, torch.float16)]


@pytest.mark.parametrize(("dtype", "head_dtype"), [*HALF_HEADS, *OTHERS])
def test_values_and_gradient_of_every_pair_of_types(dtype, head_dtype, monkeypatch):
    monkeypatch.setattr(reference, "HEAD_CHUNK", 16)
    hidden, head, targets = inputs(TOKEN_CHUNK + 3)
    hidden, head = hidden.to(dtype), head.to(head_dtype)
    sides = []
    for wide in (False, True):
        leaf = (hidden.double() if wide else hidden.clone()).requires_grad_()
        log_probs, entropy = token_log_probs(leaf, head.double() if wide else head, targets)
        (log_probs + 0.3 * entropy).sum().backward()
        sides.append((log_probs.double(), entropy.double(), leaf.grad.double()))
    (*values, grad), (*exact, exact_grad) = sides
    for got, want in zip(values, exact, strict=True):
        assert (got - want).abs().max() < 1e-5
    rounding = 1e-5 if dtype == torch.float32 else 4e-3
    assert (grad - exact_grad).abs().max() < rounding * exact_grad.abs().max()


@pytest.mark.parametrize(("dtype", "head_dtype"), HALF_HEADS)
def test_a_half_precision_head_is_widened_in_pieces(dtype, head_dtype, monkeypatch):
    """Forward and backward: a copy of the released head would be 2 GB."""
    monkeypatch.setattr(reference, "HEAD_CHUNK", 16)
    hidden, head, targets = inputs(3)
    hidden, head = hidden.to(dtype).requires_grad_(), head.to(head_dtype)

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and "copy" in function.__name__:
                largest.append(out.numel())
            return out

    largest: list[int] = []
    with Sizes():
        log_probs, _ = token_log_probs(hidden, head, targets)
        log_probs.sum().backward()
    assert len(largest) >= 2 * 4, "four pieces, forward and backward"
    assert max(largest) == 16 * head.shape[1]


def test_a_float32_head_is_multiplied_at_once():
    """As ever: the bits of a run on a CPU do not depend on how heads are cut."""
    hidden, head, targets = inputs(7)
    log_probs, _ = token_log_probs(hidden, head, targets)
    plain = (hidden @ head.T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    assert torch.equal(log_probs, plain)


def test_autocast_does_not_round_the_logits():
    hidden, head, targets = inputs(7)
    plain, _ = token_log_probs(hidden, head, targets)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(token_log_probs(hidden, head, targets)[0], plain)


def test_no_tokens_give_no_values():
    hidden, head, targets = inputs(0)
    log_probs, entropy = token_log_probs(hidden, head, targets)
    assert log_probs.shape == entropy.shape == (0,)


def test_large_logits_do_not_overflow():
    hidden, head, targets = inputs(4)
    log_probs, entropy = token_log_probs(hidden * 1e3, head, targets)
    assert torch.isfinite(log_probs).all()
    assert (entropy >= 0).all()


def test_misuse_is_refused():
    hidden, head, targets = inputs(4)
    with pytest.raises(ValueError, match="no gradient"):
        token_log_probs(hidden, head.requires_grad_(), targets)
    with pytest.raises(ValueError, match=r"\[V, D\]"):
        token_log_probs(hidden, head[:, :3].detach(), targets)
    with pytest.raises(ValueError, match="one per hidden"):
        token_log_probs(hidden, head.detach(), targets[:2])


def test_agrees_with_ligers_fallback_in_float32():
    liger = pytest.importorskip("liger_kernel.ops.fused_linear_scaled_cross_entropy")
    hidden, head, targets = inputs(40)
    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    log_probs, entropy = token_log_probs(ours, head, targets)
    nll, liger_entropy = liger.LigerFusedLinearScaledCrossEntropyFunction.apply(
        theirs, head, targets, 1.0, -100, 1, True
    )
    assert torch.allclose(log_probs, -nll, atol=1e-5)
    assert torch.allclose(entropy, liger_entropy, atol=1e-5)
    (log_probs.sum() + 0.1 * entropy.sum()).backward()
    (-nll.sum() + 0.1 * liger_entropy.sum()).backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
