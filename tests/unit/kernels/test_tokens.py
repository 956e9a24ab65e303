"""Per-token log-probability and entropy on the CPU."""

from __future__ import annotations

import pytest
import torch

from alphagrpo.kernels import token_log_probs
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
