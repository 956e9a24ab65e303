"""The guided transition on the CPU: same bits at replay and in any batch, right gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alphagrpo.flow import Guidance, guide, sde_step, shifted_times, transition_log_prob
from alphagrpo.kernels import (
    START_STEP,
    Transition,
    gaussian_noise,
    guided_transition,
    replay_transition,
)
from alphagrpo.kernels.philox import PIECE, normal, philox, torch_words, uniform

RENORMS = ["none", "global", "channel", "text_channel"]
TIMES = shifted_times(16, 3.0).tolist()
N, C = 9, 24


def tensors(batch: int, count: int = 4, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(batch, N, C, generator=generator).to(dtype) for _ in range(count)]


def step_arguments(renorm: str, step: int = 0) -> dict:
    return {
        "t": TIMES[step],
        "t_next": TIMES[step + 1],
        "t_second": TIMES[1],
        "noise_level": 0.7,
        "guidance": Guidance(text_scale=4.0, image_scale=2.0, renorm=renorm),
    }


def roll(x: Tensor, velocities: list[Tensor], renorm: str, step: int = 0, first: int = 0):
    samples = torch.arange(first, first + x.shape[0])
    return guided_transition(
        x,
        velocities,
        seeds=torch.full_like(samples, 1234567890123),
        samples=samples,
        step=step,
        **step_arguments(renorm, step),
    )


@pytest.mark.parametrize("step", [0, 1, 9])
@pytest.mark.parametrize("branches", [1, 2, 3])
@pytest.mark.parametrize("renorm", RENORMS)
def test_replay_has_the_rollouts_bits(renorm, branches, step):
    x, *velocities = tensors(4)
    velocities = velocities[:branches]
    with torch.no_grad():
        rolled = roll(x, velocities, renorm, step)
    leaves = [v.clone().requires_grad_() for v in velocities]
    replayed = replay_transition(x, rolled.x_next, leaves, **step_arguments(renorm, step))
    assert torch.equal(replayed.log_prob, rolled.log_prob)
    assert torch.equal(replayed.mean, rolled.mean)
    assert (replayed.log_prob - rolled.log_prob).exp().eq(1.0).all()
    assert rolled.log_prob.lt(0).all()


@pytest.mark.parametrize("renorm", RENORMS)
def test_a_samples_bits_do_not_depend_on_its_batch(renorm):
    x, *velocities = tensors(16)
    together = roll(x, velocities, renorm)
    for i in range(16):
        row = slice(i, i + 1)
        alone = roll(x[row], [v[row] for v in velocities], renorm, first=i)
        assert torch.equal(alone.x_next, together.x_next[row])
        assert torch.equal(alone.log_prob, together.log_prob[row])


def test_the_reference_is_guidance_then_the_sde_step():
    x, *velocities = tensors(3)
    rolled = roll(x, velocities, "global", 2)
    kwargs = step_arguments("global", 2)
    v = guide(*velocities, text_scale=4.0, image_scale=2.0, renorm="global")
    noise = gaussian_noise(torch.full((3,), 1234567890123), torch.arange(3), 2, (N, C))
    x_next, mean, std = sde_step(
        x, v, kwargs["t"], kwargs["t_next"], noise, noise_level=0.7, t_second=TIMES[1]
    )
    assert torch.allclose(rolled.x_next, x_next, atol=1e-6)
    assert torch.allclose(rolled.mean, mean, atol=1e-6)
    assert torch.equal(rolled.std, std)
    expected = transition_log_prob(x_next, mean, std, kwargs["t_next"] - kwargs["t"])
    assert torch.allclose(rolled.log_prob, expected, atol=1e-6)


@pytest.mark.parametrize("renorm", RENORMS)
def test_gradients_of_the_reference_pass_gradcheck(renorm):
    x, x_next, *velocities = tensors(2, count=5, dtype=torch.float64)
    small = [v[:, :2, :3].clone().requires_grad_() for v in velocities]
    x, x_next = x[:, :2, :3], x_next[:, :2, :3]

    def outputs(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        replayed: Transition = replay_transition(x, x_next, leaves, **step_arguments(renorm))
        return replayed.log_prob, replayed.mean

    assert torch.autograd.gradcheck(outputs, small)


def test_the_gradient_of_the_drawn_sample_flows_through_the_mean_only():
    x, *velocities = tensors(2)
    leaves = [v.clone().requires_grad_() for v in velocities]
    rolled = roll(x, leaves, "global")
    assert not rolled.x_next.requires_grad
    rolled.log_prob.sum().backward()
    assert all(leaf.grad.abs().max() > 0 for leaf in leaves)


def test_a_text_scale_of_one_ignores_every_other_branch():
    x, *velocities = tensors(2)
    arguments = step_arguments("global") | {"guidance": Guidance(text_scale=1.0, image_scale=2.0)}
    guided = replay_transition(x, x, velocities, **arguments)
    alone = replay_transition(x, x, velocities[:1], **arguments)
    assert torch.equal(guided.log_prob, alone.log_prob)


def test_philox_gives_the_published_words():
    """Known answers of Philox-4x32-10 for an all-zero and an all-one counter and key."""
    zero, ones = torch.zeros(1, dtype=torch.int64), torch.full((1,), 0xFFFFFFFF)
    assert [w.item() for w in philox(zero, (zero, zero, zero, zero))] == [0x6627E8D5, 0xE169C58D]
    key = torch.full((1,), -1, dtype=torch.int64)
    assert [w.item() for w in philox(key, (ones, ones, ones, ones))] == [0x408F276D, 0x41C83B0E]


def random_words(*shape: int) -> Tensor:
    return torch.randint(2**32, shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize(
    "shapes",
    [
        ((1,), (PIECE + 7,), (1,), (1,), (1,)),
        ((3, 1), (1, PIECE), (3, 1), (1, 1), (1, 1)),
        ((3, 1), (1, 1), (3, 1), (1, 1), (3, 5)),
        ((2, 1, 1), (4, 9), (1, 9), (9,), ()),
        ((1,), (0,), (1,), (1,), (1,)),
    ],
)
def test_both_ways_to_compute_words_give_the_same(shapes):
    """Numpy's, in pieces, and torch's, which CUDA without Triton takes."""
    seed, *counter = (random_words(*shape) for shape in shapes)
    seed = seed - 2**31 + (seed << 32)  # negative and positive keys of 64 bits
    got, want = philox(seed, tuple(counter)), torch_words(seed, tuple(counter))
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert torch.equal(a, b)


def test_noise_has_the_bits_of_its_formula_over_whole_tensors():
    seeds, samples = torch.tensor([5, -7, 2**62]), torch.tensor([0, 2**32 - 1, 3])
    size = PIECE + 77
    zero = torch.zeros(3, size, dtype=torch.int64)
    counter = (zero + torch.arange(size), zero + samples[:, None], zero + 9, zero)
    whole = normal(*torch_words(seeds[:, None], counter))
    assert torch.equal(gaussian_noise(seeds, samples, 9, (size,)), whole)


def test_uniforms_fold_the_sign_bit():
    words = torch.tensor([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
    largest = float(torch.tensor(4.6566127342e-10 * 2**31, dtype=torch.float32))
    assert uniform(words).tolist() == pytest.approx([0.0, 2**-31, largest, largest, 0.0])
    assert largest < 1.0


def test_noise_is_standard_normal_and_never_repeats():
    seeds = torch.tensor([5, 5, 6, -5])
    samples = torch.tensor([0, 1, 0, 0])
    draws = torch.cat([gaussian_noise(seeds, samples, s, (100, 64)) for s in (0, 1, START_STEP)])
    flat = draws.flatten(1)
    assert torch.isfinite(flat).all()
    assert flat.mean(dim=1).abs().max() < 0.06
    assert (flat.std(dim=1) - 1).abs().max() < 0.05
    correlation = torch.corrcoef(flat) - torch.eye(flat.shape[0])
    assert correlation.abs().max() < 0.07


def test_noise_of_a_sample_does_not_depend_on_batch_or_length():
    seeds, samples = torch.arange(16) + 2**40, torch.arange(16)
    together = gaussian_noise(seeds, samples, 3, (N, C))
    for i in range(16):
        row = slice(i, i + 1)
        assert torch.equal(gaussian_noise(seeds[row], samples[row], 3, (N, C)), together[row])
    longer = gaussian_noise(seeds, samples, 3, (2 * N, C))
    assert torch.equal(longer[:, :N], together)


def test_misuse_is_refused():
    x, v, *_ = tensors(2)
    arguments = step_arguments("global")
    with pytest.raises(ValueError, match="euler_step"):
        replay_transition(x, x, [v], **(arguments | {"noise_level": 0.0}))
    with pytest.raises(ValueError, match="latents' shape"):
        replay_transition(x, x, [v[:1]], **arguments)
    with pytest.raises(ValueError, match="shape of x"):
        replay_transition(x, x[:1], [v], **arguments)
    with pytest.raises(ValueError, match="one number per sample"):
        guided_transition(
            x, [v], seeds=torch.zeros(1).long(), samples=torch.arange(2), step=0, **arguments
        )
    with pytest.raises(ValueError, match="1 to 3"):
        replay_transition(x, x, [], **arguments)
    with pytest.raises(ValueError, match="backend"):
        replay_transition(x, x, [v], **arguments, backend="cuda")
