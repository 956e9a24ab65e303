"""The kernels on a real GPU: same bits at replay, and the reference's numbers."""

from __future__ import annotations

import pytest
import torch

from alphagrpo.flow import Guidance, shifted_times
from alphagrpo.kernels import (
    guided_transition,
    replay_transition,
    rms_norm,
    rotate,
    swiglu,
    token_log_probs,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("renorm", ["none", "global", "channel", "text_channel"])
def test_replay_has_the_rollouts_bits_and_the_references_values(renorm):
    times = shifted_times(16, 3.0).tolist()
    x, *velocities = torch.randn(4, 14, 1024, 64).unbind()
    arguments = {
        "t": times[0],
        "t_next": times[1],
        "t_second": times[1],
        "noise_level": 0.7,
        "guidance": Guidance(text_scale=4.0, image_scale=2.0, renorm=renorm),
    }
    keys = {"seeds": torch.full((14,), 5), "samples": torch.arange(14), "step": 0}
    host = guided_transition(x, velocities, **keys, **arguments)
    keys = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in keys.items()}
    leaves = [v.cuda().requires_grad_() for v in velocities]
    rolled = guided_transition(x.cuda(), [v.detach() for v in leaves], **keys, **arguments)
    replayed = replay_transition(x.cuda(), rolled.x_next, leaves, **arguments)
    alone = replay_transition(
        x[3:4].cuda(), rolled.x_next[3:4], [v[3:4] for v in leaves], **arguments
    )
    assert torch.equal(rolled.log_prob, replayed.log_prob)
    assert torch.equal(alone.log_prob, replayed.log_prob[3:4])
    assert torch.allclose(rolled.mean.cpu(), host.mean, atol=1e-5)
    assert torch.allclose(rolled.log_prob.cpu(), host.log_prob, atol=1e-5)
    replayed.log_prob.sum().backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


FLOAT, BRAIN = torch.float32, torch.bfloat16


@pytest.mark.parametrize("tokens", [1, 100, 1792])
@pytest.mark.parametrize(
    ("dtype", "head_dtype"), [(FLOAT, FLOAT), (BRAIN, BRAIN), (BRAIN, FLOAT), (FLOAT, BRAIN)]
)
def test_token_log_probs_against_float64(dtype, head_dtype, tokens):
    """The product's pair of types, and those beside it; every run has the same bits."""
    hidden = torch.randn(tokens, 3584, device="cuda").to(dtype)
    head = (torch.randn(20_000, 3584, device="cuda") / 60).to(head_dtype)
    targets = torch.randint(20_000, (tokens,), device="cuda")
    with torch.no_grad():
        rolled = token_log_probs(hidden, head, targets)
    runs = []
    for _ in range(3):
        leaf = hidden.clone().requires_grad_()
        got = token_log_probs(leaf, head, targets)
        (got[0] + 0.3 * got[1]).sum().backward()
        assert all(torch.equal(a, b) for a, b in zip(got, rolled, strict=True))
        runs.append(leaf.grad)
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
    exact = hidden.double().requires_grad_()
    want = token_log_probs(exact, head.double(), targets, backend="reference")
    (want[0] + 0.3 * want[1]).sum().backward()
    tolerance = 2e-6 * (1.0 + (exact @ head.double().T).abs().max().item())
    for a, b in zip(rolled, want, strict=True):
        assert (a - b).abs().max() < tolerance
    rounding = 1e-5 if dtype == FLOAT else 4e-3
    assert (runs[0] - exact.grad).abs().max() < rounding * exact.grad.abs().max()


def layer_operations() -> dict:
    weight = torch.rand(3584, device="cuda").to(BRAIN)
    angle = torch.rand(2, 1, 1, 128, device="cuda")
    cos, sin = angle.cos(), angle.sin()

    def turned(x, dtype, backend):
        heads = x.view(2, -1, 28, 128)
        return rotate(heads, cos.to(x.dtype) if dtype else cos, sin, dtype=dtype, backend=backend)

    return {
        "norm": lambda x, wide, how: rms_norm(x, weight.to(wide or BRAIN), 1e-6, backend=how),
        "rotate": lambda x, wide, how: turned(x, wide or BRAIN, how),
        "swiglu": lambda x, wide, how: swiglu(x, x.flip(-1), backend=how),
    }


@pytest.mark.parametrize("name", ["norm", "rotate", "swiglu"])
def test_layer_passes_against_float64_with_one_rounding(name):
    operation = layer_operations()[name]
    x = torch.randn(2 * 1026, 3584, device="cuda").to(BRAIN)
    with torch.no_grad():
        rolled = operation(x, None, "auto")
    leaf, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    got, want = operation(leaf, None, "auto"), operation(exact, torch.float64, "reference")
    assert got.dtype == BRAIN
    assert torch.equal(got, rolled)
    pull = torch.randn_like(got)
    got.backward(pull)
    want.backward(pull.double())
    for a, b in ((got, want), (leaf.grad, exact.grad)):
        assert (a - b).abs().max() < 8e-3 * b.abs().max()
