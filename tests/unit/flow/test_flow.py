"""Schedule, guidance, SDE, window and the fixed order of summation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphagrpo.flow import (
    Guidance,
    Window,
    cps_step,
    euler_step,
    guide,
    ordered_sum,
    sample_window,
    sde_coefficients,
    sde_step,
    shifted_times,
    transition_log_prob,
)

RENORMS = ["none", "global", "channel", "text_channel"]


def branches(batch: int = 3, tokens: int = 7, channels: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, tokens, channels, generator=generator) for _ in range(3)]


@given(num_points=st.integers(2, 60), shift=st.floats(0.2, 8.0))
@settings(max_examples=40, deadline=None)
def test_times_fall_from_one_to_zero(num_points, shift):
    times = shifted_times(num_points, shift)
    assert times.shape == (num_points,)
    assert times.dtype == torch.float32
    assert times[0] == 1.0
    assert times[-1] == 0.0
    assert (times.diff() < 0).all()


def test_a_shift_above_one_spends_more_points_on_noise():
    assert torch.allclose(shifted_times(5, 1.0), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    assert torch.allclose(shifted_times(3, 3.0), torch.tensor([1.0, 0.75, 0.0]))


@pytest.mark.parametrize(("num_points", "shift"), [(1, 3.0), (0, 3.0), (8, 0.0), (8, -1.0)])
def test_impossible_schedules_are_refused(num_points, shift):
    with pytest.raises(ValueError, match="got"):
        shifted_times(num_points, shift)


@given(size=st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_ordered_sum_is_a_sum(size):
    values = torch.rand(2, size, dtype=torch.float64)
    assert torch.allclose(ordered_sum(values), values.sum(-1), rtol=1e-12)


def test_ordered_sum_has_the_same_bits_in_any_batch():
    values = torch.randn(16, 1000)
    together = ordered_sum(values)
    assert all(torch.equal(ordered_sum(values[i : i + 1])[0], together[i]) for i in range(16))


def test_guidance_interval_is_open_below_and_closed_above_in_float32():
    guidance = Guidance(text_scale=4.0, interval=(0.4, 1.0))
    rounded = torch.tensor(0.4, dtype=torch.float32).item()
    assert rounded > 0.4  # so that only a comparison in float32 finds it on the bound
    assert not guidance.active(rounded)
    assert guidance.active(0.41)
    assert guidance.active(1.0)
    assert not Guidance(text_scale=1.0).active(0.9)


def test_branches_follow_scales_interval_and_context():
    guidance = Guidance(text_scale=4.0, image_scale=2.0, interval=(0.4, 1.0))
    assert guidance.branches(0.9, has_image=True) == ("cond", "uncond_text", "uncond_image")
    assert guidance.branches(0.9, has_image=False) == ("cond", "uncond_text")
    assert guidance.branches(0.3, has_image=True) == ("cond",)
    assert Guidance(image_scale=1.0).branches(0.9, has_image=True) == ("cond", "uncond_text")
    assert Guidance(text_scale=1.0, image_scale=2.0).branches(0.9, has_image=True) == ("cond",)


@pytest.mark.parametrize(
    "bad", [{"interval": (1.0, 0.4)}, {"renorm": "layer"}, {"renorm_min": 1.5}]
)
def test_impossible_guidance_is_refused(bad):
    with pytest.raises(ValueError, match="got"):
        Guidance(**bad)


@pytest.mark.parametrize("renorm", RENORMS)
def test_a_text_scale_of_one_switches_image_guidance_off_too(renorm):
    cond, text, image = branches()
    assert torch.equal(
        guide(cond, text, image, text_scale=1.0, image_scale=3.0, renorm=renorm), cond
    )


def test_global_renorm_is_per_image_and_channel_renorm_per_token():
    cond, text, _ = branches()
    guided = guide(cond, text, text_scale=4.0, renorm="global")
    assert torch.allclose(guided.norm(dim=(1, 2)), cond.norm(dim=(1, 2)), rtol=1e-5)
    guided = guide(cond, text, text_scale=4.0, renorm="channel")
    raw = guide(cond, text, text_scale=4.0, renorm="none")
    shrunk = torch.minimum(cond.norm(dim=-1), raw.norm(dim=-1))
    assert torch.allclose(guided.norm(dim=-1), shrunk, rtol=1e-5)


@pytest.mark.parametrize("renorm", RENORMS)
def test_guidance_bits_do_not_depend_on_the_batch(renorm):
    cond, text, image = branches(batch=16)
    kwargs = {"text_scale": 4.0, "image_scale": 2.0, "renorm": renorm}
    together = guide(cond, text, image, **kwargs)
    for i in range(16):
        row = slice(i, i + 1)
        assert torch.equal(guide(cond[row], text[row], image[row], **kwargs), together[row])


def test_guidance_of_zero_velocities_has_finite_gradients():
    zeros = [torch.zeros(1, 2, 3, requires_grad=True) for _ in range(2)]
    guide(*zeros, text_scale=4.0, renorm="channel").sum().backward()
    assert all(torch.isfinite(z.grad).all() for z in zeros)


def test_no_noise_makes_the_sde_step_the_euler_step():
    x, v, noise = branches()
    x_next, mean, std = sde_step(x, v, 0.8, 0.7, noise, noise_level=0.0, t_second=0.97)
    assert torch.equal(x_next, mean)
    assert std == 0.0
    assert torch.allclose(x_next, euler_step(x, v, 0.8, 0.7), atol=1e-6)


def test_the_sde_keeps_the_marginal_of_a_gaussian_path():
    """With data = 0 and x = t noise, v = noise: a step must give the variance t_next^2 nearly."""
    noise = torch.randn(1, 20000, 1, generator=torch.Generator().manual_seed(1))
    fresh = torch.randn(1, 20000, 1, generator=torch.Generator().manual_seed(2))
    t, t_next = 0.8, 0.79
    x_next, _, _ = sde_step(t * noise, noise, t, t_next, fresh, noise_level=0.7, t_second=0.97)
    assert x_next.std().item() == pytest.approx(t_next, abs=0.01)


def test_log_prob_of_the_drawn_sample_is_minus_half_the_mean_squared_noise():
    x, v, noise = branches()
    x_next, mean, std = sde_step(x, v, 1.0, 0.9, noise, noise_level=0.7, t_second=0.97)
    got = transition_log_prob(x_next, mean, std, 0.9 - 1.0)
    assert torch.allclose(got, -noise.square().mean(dim=(1, 2)) / 2, rtol=1e-4)


def test_times_may_differ_within_a_batch():
    x, v, noise = branches(batch=2)
    pairs = [(0.9, 0.8), (0.6, 0.5)]
    t = torch.tensor([p[0] for p in pairs], dtype=torch.float64)
    t_next = torch.tensor([p[1] for p in pairs], dtype=torch.float64)
    together = sde_step(x, v, t, t_next, noise, noise_level=0.7, t_second=0.97)[0]
    for i, (now, then) in enumerate(pairs):
        row = slice(i, i + 1)
        alone = sde_step(x[row], v[row], now, then, noise[row], noise_level=0.7, t_second=0.97)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize(
    ("t", "t_next", "t_second", "level"),
    [(0.5, 0.6, 0.9, 0.7), (0.0, -0.1, 0.9, 0.7), (1.0, 0.9, 1.0, 0.7), (0.5, 0.4, 0.9, -1.0)],
)
def test_impossible_steps_are_refused(t, t_next, t_second, level):
    with pytest.raises(ValueError, match="got"):
        sde_coefficients(t, t_next, noise_level=level, t_second=t_second)


def test_the_last_cps_step_is_deterministic():
    x, v, noise = branches()
    x_next, mean, std = cps_step(x, v, 0.3, 0.0, noise, noise_level=0.7)
    assert std == 0.0
    assert torch.equal(x_next, mean)
    assert torch.allclose(x_next, x - 0.3 * v, atol=1e-6)


@given(length=st.integers(1, 12), lo=st.integers(0, 5), slack=st.integers(0, 9), seed=st.integers())
@settings(max_examples=60, deadline=None)
def test_a_drawn_window_lies_in_its_range_and_repeats(length, lo, slack, seed):
    hi = lo + length + slack
    window = sample_window(length, (lo, hi), seed)
    assert lo <= window.start
    assert window.stop <= hi
    assert window == sample_window(length, (lo, hi), seed)


def test_all_allowed_starts_occur():
    starts = {sample_window(10, (0, 11), seed).start for seed in range(60)}
    assert starts == {0, 1}


def test_windows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="fits"):
        sample_window(12, (0, 11), 0)
    with pytest.raises(ValueError, match="15 steps"):
        Window(6, 10).check(16)
    with pytest.raises(ValueError, match="length 0"):
        Window(0, 0)
    assert 3 in Window(2, 2)
    assert 4 not in Window(2, 2)
