"""Triton kernels against the plain reference, forward and backward, in the interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alphagrpo.flow import Guidance, shifted_times
from alphagrpo.kernels import (
    START_STEP,
    Transition,
    gaussian_noise,
    guided_transition,
    replay_transition,
)

RENORMS = ["none", "global", "channel", "text_channel"]
TIMES = shifted_times(16, 3.0).tolist()
B, N, C = 3, 37, 20
"""37 tokens are more than one tile of 64 x 32 would be, and neither extent is a power of two."""


def tensors(count: int, scale: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(B, N, C, generator=generator) for _ in range(count)]
    return [drawn[0], drawn[1], drawn[2], *(scale * d for d in drawn[3:])]


def arguments(renorm: str, renorm_min: float, step: int, backend: str) -> dict:
    return {
        "t": TIMES[step],
        "t_next": TIMES[step + 1],
        "t_second": TIMES[1],
        "noise_level": 0.7,
        "guidance": Guidance(text_scale=4.0, image_scale=2.0, renorm=renorm, renorm_min=renorm_min),
        "backend": backend,
    }


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()


def run(backend: str, renorm: str, branches: int, scale: float, renorm_min: float):
    """Roll out, score another x_next, and pull gradients through log-probability and mean."""
    x, other, pull, *velocities = tensors(3 + branches, scale)
    leaves = [v.clone().requires_grad_() for v in velocities]
    kwargs = arguments(renorm, renorm_min, step=0, backend=backend)
    seeds, samples = torch.tensor([7, -3, 2**40 + 5]), torch.arange(B)
    rolled = guided_transition(x, leaves, seeds=seeds, samples=samples, step=5, **kwargs)
    scored: Transition = replay_transition(x, other, leaves, **kwargs)
    weights = torch.tensor([1.0, -2.0, 0.5])
    ((scored.log_prob * weights).sum() + 0.01 * (scored.mean * pull).sum()).backward()
    return rolled, scored, [leaf.grad for leaf in leaves]


# Small velocities in the unguided branches bring the renormalisation to its clamp at 1.
@pytest.mark.parametrize(("scale", "renorm_min"), [(1.0, 0.0), (0.01, 0.0), (1.0, 0.5)])
@pytest.mark.parametrize("branches", [1, 2, 3])
@pytest.mark.parametrize("renorm", RENORMS)
def test_transition_and_gradients(renorm, branches, scale, renorm_min):
    rolled, scored, grads = run("triton", renorm, branches, scale, renorm_min)
    rolled_ref, scored_ref, grads_ref = run("reference", renorm, branches, scale, renorm_min)
    assert relative(rolled.x_next, rolled_ref.x_next) < 2e-6
    assert relative(scored.mean, scored_ref.mean) < 2e-6
    assert (rolled.log_prob - rolled_ref.log_prob).abs().max() < 2e-6
    assert relative(scored.log_prob, scored_ref.log_prob) < 2e-6
    for got, expected in zip(grads, grads_ref, strict=True):
        assert relative(got, expected) < 1e-5


@pytest.mark.parametrize("renorm", RENORMS)
def test_replay_has_the_rollouts_bits_in_any_batch(renorm):
    x, _, _, *velocities = tensors(6, 1.0)
    kwargs = arguments(renorm, 0.0, step=3, backend="triton")
    seeds, samples = torch.full((B,), 99), torch.arange(B)
    rolled = guided_transition(x, velocities, seeds=seeds, samples=samples, step=3, **kwargs)
    replayed = replay_transition(x, rolled.x_next, velocities, **kwargs)
    assert torch.equal(rolled.log_prob, replayed.log_prob)
    for i in range(B):
        row = slice(i, i + 1)
        alone = guided_transition(
            x[row],
            [v[row] for v in velocities],
            seeds=seeds[row],
            samples=samples[row],
            step=3,
            **kwargs,
        )
        assert torch.equal(alone.x_next, rolled.x_next[row])
        assert torch.equal(alone.log_prob, rolled.log_prob[row])


@pytest.mark.parametrize("step", [0, 17, START_STEP])
def test_noise(step):
    seeds = torch.tensor([0, 5, -1, 2**62])
    samples = torch.tensor([0, 1, 2**32 - 1, 7])
    got = gaussian_noise(seeds, samples, step, (500, 7), backend="triton")
    expected = gaussian_noise(seeds, samples, step, (500, 7), backend="reference")
    assert (got - expected).abs().max() < 2e-6
