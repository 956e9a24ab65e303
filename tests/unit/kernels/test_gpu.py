"""The kernels on a real GPU: same bits at replay, and the reference's numbers."""

from __future__ import annotations

import pytest
import torch

from alphagrpo.flow import Guidance, shifted_times
from alphagrpo.kernels import guided_transition, replay_transition, token_log_probs

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_log_probs_on_the_gpu(dtype):
    hidden = torch.randn(100, 512).to(dtype)
    head = (torch.randn(20000, 512) / 16).to(dtype)
    targets = torch.randint(20000, (100,))
    device, host = hidden.cuda().requires_grad_(), hidden.clone().requires_grad_()
    got = token_log_probs(device, head.cuda(), targets.cuda())
    expected = token_log_probs(host, head, targets)
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a.cpu(), b, atol=2e-5)
    got[0].sum().backward()
    expected[0].sum().backward()
    scale = host.grad.float().abs().max()
    assert (device.grad.cpu().float() - host.grad.float()).abs().max() < 1e-2 * scale
