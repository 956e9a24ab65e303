"""Plans and paths against the steps written out, with the velocities of separate forwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alphagrpo.config.sampling import FlowConfig, GuidanceConfig
from alphagrpo.flow import Guidance, Window, guide, sde_step, transition_log_prob
from alphagrpo.kernels import START_STEP, gaussian_noise
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.policy.contexts import Branches, ImageConditions, read_prefix
from alphagrpo.policy.denoising import FlowPlan, Path, denoise, replay_step, start_noise
from tests.fakes import make_model

GRID = (1, 2)
GUIDANCE: dict[str, Any] = {
    "text_scale": 3.0,
    "image_scale": 1.5,
    "interval": (0.3, 0.9),
    "renorm": "channel",
    # Some of the factors lie below it and some above.
    "renorm_min": 0.9,
}
FLOW = FlowConfig(
    num_points=6,
    shift=2.0,
    noise_level=0.5,
    window={"length": 2, "allowed": (0, 5)},
    guidance=GUIDANCE,
)
TIMES = [2 * t / (1 + t) for t in (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)]
"""Five even steps under shift 2: about 1, 0.89, 0.75, 0.57, 0.33, 0; guided are all but the first
and the last point.
"""


@pytest.fixture(scope="module")
def model() -> Bagel:
    return make_model(seed=1).requires_grad_(False)


@pytest.fixture(scope="module")
def branches(model: Bagel) -> Branches:
    """Of two samples after one picture."""
    picture = ImageConditions(
        torch.randn(1, 2, model.latent_channels, generator=torch.Generator().manual_seed(1)),
        np.full((1, 16, 32, 3), 200, np.uint8),
        GRID,
    )
    prompt = np.array([20, 21])
    prefix = read_prefix(model, np.array([9]), [prompt], picture, image_branch=True).expand(2)
    return Branches.after(prefix, prefix.full)


# -- plans


def test_a_training_plan_takes_everything_from_the_flow() -> None:
    plan = FlowPlan.for_training(FLOW, Window(1, 2), guided=True, has_image=True)
    assert plan.times == pytest.approx(TIMES, abs=1e-6)
    assert plan.guidance == Guidance(**GUIDANCE)
    assert (plan.noise_level, plan.window) == (0.5, Window(1, 2))
    assert [plan.num_branches(step) for step in range(5)] == [1, 3, 3, 3, 3]
    assert plan.needs_image_branch


def test_without_a_picture_nothing_is_led_away_from_one() -> None:
    plan = FlowPlan.for_training(FLOW, Window(1, 2), guided=True)
    assert [plan.num_branches(step) for step in range(5)] == [1, 2, 2, 2, 2]
    assert not plan.needs_image_branch


def test_unguided_training_leaves_both_guidances_out_and_keeps_the_path() -> None:
    plan = FlowPlan.for_training(FLOW, Window(1, 2), guided=False, has_image=True)
    assert {plan.num_branches(step) for step in range(5)} == {1}
    assert not plan.needs_image_branch
    assert plan.times == pytest.approx(TIMES, abs=1e-6)
    assert FLOW.guidance == GuidanceConfig(**GUIDANCE), "the config is not changed"


def test_an_euler_plan_has_no_window_and_its_own_guidance() -> None:
    plan = FlowPlan.euler(6, 2.0, GuidanceConfig(**GUIDANCE), has_image=True)
    assert plan.times == pytest.approx(TIMES, abs=1e-6)
    assert plan.window is None
    assert plan.guidance == Guidance(**GUIDANCE)
    assert [plan.num_branches(step) for step in range(5)] == [1, 3, 3, 3, 3]
    assert FlowPlan.euler(6, 2.0, GuidanceConfig(**GUIDANCE)).num_branches(1) == 2
    straight = FlowPlan.euler(6, 1.0, GuidanceConfig())
    assert straight.times == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_a_window_beyond_the_schedule_is_refused() -> None:
    FlowPlan.for_training(FLOW, Window(3, 2), guided=True)
    with pytest.raises(ValueError, match="6 points has 5 steps, the SDE window ends at step 6"):
        FlowPlan.for_training(FLOW, Window(4, 2), guided=True)


# -- paths


def keys(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def by_hand(
    model: Bagel, branches: Branches, x: Tensor, window: Window | None, *, image: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """End of the path, latents around each step of the window, and its log-probabilities."""
    around, scores = [x] if window and window.start == 0 else [], []
    for step in range(5):
        t, t_next = TIMES[step], TIMES[step + 1]
        times = torch.full((len(x),), t)
        velocity = model.velocity(branches.contexts[0], x, times, GRID)
        if 0.3 < t <= 0.9:
            others = [model.velocity(c, x, times, GRID) for c in branches.contexts[1:]]
            settings = {k: v for k, v in GUIDANCE.items() if k != "interval"}
            velocity = guide(velocity, *others[: 1 + image], **settings)
        if window and step in window:
            noise = gaussian_noise(keys([5, 5]), keys([0, 1]), step, x.shape[1:])
            levels = {"noise_level": 0.5, "t_second": TIMES[1]}
            x, mean, std = sde_step(x, velocity, t, t_next, noise, **levels)
            scores.append(transition_log_prob(x, mean, std, t_next - t))
        else:
            x = x + (t_next - t) * velocity
        if window and window.start <= step + 1 <= window.stop:
            around.append(x)
    return x, around, scores


def path_of(
    model: Bagel, branches: Branches, plan: FlowPlan, seeds: list[int], samples: list[int]
) -> Path:
    x = start_noise([3] * len(seeds), samples, (2, model.latent_channels), torch.device("cpu"))
    return denoise(model, branches, plan, x, GRID, seeds=seeds, samples=samples)


@pytest.mark.parametrize("window", [Window(0, 2), Window(1, 3), Window(3, 2), None])
@pytest.mark.parametrize("image", [True, False])
def test_a_path_is_its_steps_one_after_another(
    model: Bagel, branches: Branches, window: Window | None, image: bool
) -> None:
    plan = FlowPlan.euler(6, 2.0, FLOW.guidance, has_image=image)
    if window is not None:
        plan = FlowPlan.for_training(FLOW, window, guided=True, has_image=image)
    path = path_of(model, branches, plan, [5, 5], [0, 1])
    x = gaussian_noise(keys([3, 3]), keys([0, 1]), START_STEP, (2, model.latent_channels))
    final, around, scores = by_hand(model, branches, x, window, image=image)
    torch.testing.assert_close(path.final, final, atol=1e-4, rtol=1e-4)
    if window is None:
        assert (path.latents, path.log_probs) == (None, None)
        return
    torch.testing.assert_close(path.latents, torch.stack(around, dim=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(path.log_probs, torch.stack(scores, dim=1), atol=1e-4, rtol=1e-4)


def test_recorded_steps_are_scored_again_with_the_same_bits(
    model: Bagel, branches: Branches
) -> None:
    window = Window(0, 5)
    plan = FlowPlan.for_training(FLOW, window, guided=True, has_image=True)
    path = path_of(model, branches, plan, [5, 5], [0, 1])
    assert path.latents is not None
    assert path.log_probs is not None
    assert torch.equal(path.latents[:, -1], path.final)
    for step in window.steps:
        x, x_next = (path.latents[:, i].contiguous() for i in (step, step + 1))
        transition = replay_step(model, branches, plan, x, x_next, step, GRID)
        assert torch.equal(transition.log_prob, path.log_probs[:, step])


def test_noise_is_a_function_of_seed_sample_and_step(model: Bagel, branches: Branches) -> None:
    """The deviation of each step from where the same velocities lead without noise."""
    plan = FlowPlan.for_training(FLOW, Window(1, 3), guided=True, has_image=True)

    def deviations(seeds: list[int], samples: list[int]) -> Tensor:
        path = path_of(model, branches, plan, seeds, samples)
        assert path.latents is not None
        means = [
            replay_step(
                model,
                branches,
                plan,
                path.latents[:, k].contiguous(),
                path.latents[:, k + 1].contiguous(),
                k + 1,
                GRID,
            ).mean
            for k in range(3)
        ]
        off = path.latents[:, 1:] - torch.stack(means, dim=1)
        return off / off.square().mean(dim=(2, 3), keepdim=True).sqrt()

    base = deviations([5, 5], [0, 1])
    close = {"atol": 1e-3, "rtol": 1e-3}
    torch.testing.assert_close(deviations([5, 6], [0, 1])[0], base[0], **close)
    torch.testing.assert_close(deviations([6, 5], [0, 0])[1], base[0], **close)
    rows = [*base.flatten(0, 1), *deviations([6, 6], [0, 1]).flatten(0, 1)]
    pairs = [(a, b) for i, a in enumerate(rows) for b in rows[:i]]
    assert all((a - b).abs().max() > 0.5 for a, b in pairs), "no noise comes twice"
