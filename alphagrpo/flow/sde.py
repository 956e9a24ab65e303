"""One step along the flow: deterministic, or as a Gaussian transition with a log-probability.

Times are Python floats (one for the whole batch) or tensors [B]. Coefficients are computed in
float64 and rounded once to the latents' precision, so that every caller, kernels included, uses
the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alphagrpo.flow.reduce import sample_mean

Time = float | Tensor


@dataclass(frozen=True, slots=True)
class StepCoefficients:
    """A Gaussian transition ``x_next ~ N(x_weight x + v_weight v, noise_scale^2)``.

    Each field is float64, a scalar or [B], on the CPU unless the times were tensors elsewhere.
    """

    x_weight: Tensor
    v_weight: Tensor
    std: Tensor
    """sigma without sqrt(-dt)."""
    noise_scale: Tensor
    """sigma sqrt(-dt), the standard deviation of the transition."""

    @property
    def log_prob_weight(self) -> Tensor:
        """``1 / (2 sigma^2 (-dt))``; infinite where the step is deterministic."""
        return 1.0 / (2.0 * self.noise_scale.square())


def sde_coefficients(
    t: Time, t_next: Time, *, noise_level: float, t_second: float
) -> StepCoefficients:
    """Coefficients of the Flow-GRPO transition (AlphaGRPO, image objective; method: section 1.2).

    With ``dt = t_next - t < 0`` and a = ``noise_level``::

        sigma = a sqrt(t / (1 - t))            at t = 1 the denominator is 1 - t_second
        x_weight = 1 + sigma^2 / (2 t) dt
        v_weight = (1 + sigma^2 (1 - t) / (2 t)) dt

    ``noise_level`` 0 gives the Euler step.

    Raises:
        ValueError: for times that do not decrease, t outside (0, 1], ``t_second`` outside (0, 1)
            where t = 1 needs it, or a negative noise level. Tensor times are not checked.
    """
    if noise_level < 0:
        raise ValueError(f"the noise level must not be negative, got {noise_level}")
    if not isinstance(t, Tensor) and not isinstance(t_next, Tensor):
        _check_times(t, t_next, t_second)
    t64 = torch.as_tensor(t, dtype=torch.float64)
    dt = torch.as_tensor(t_next, dtype=torch.float64, device=t64.device) - t64
    denominator = torch.where(t64 == 1.0, 1.0 - t_second, 1.0 - t64)
    variance = noise_level**2 * t64 / denominator
    std = variance.sqrt()
    return StepCoefficients(
        x_weight=1.0 + variance / (2.0 * t64) * dt,
        v_weight=(1.0 + variance * (1.0 - t64) / (2.0 * t64)) * dt,
        std=std,
        noise_scale=std * (-dt).sqrt(),
    )


def sde_step(
    x: Tensor,
    v: Tensor,
    t: Time,
    t_next: Time,
    noise: Tensor,
    *,
    noise_level: float,
    t_second: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the next latents: ``mean + sigma sqrt(-dt) noise`` (see :func:`sde_coefficients`).

    Args:
        x: [B, N, C] latents at time ``t``.
        v: [B, N, C] (guided) velocity.
        t: time of ``x``, in (0, 1].
        t_next: the next, smaller time.
        noise: [B, N, C] standard normal.
        noise_level: a, 0.7 in the paper; 0 makes this the Euler step.
        t_second: the schedule's second time, which stands in for t = 1 where sigma would diverge.

    Returns:
        ``(x_next, mean, std)``: [B, N, C], [B, N, C], and sigma *without* sqrt(-dt) as a scalar or
        [B], float32. The gradient with respect to ``v`` flows through all of x_next and mean;
        detach x_next before scoring it.
    """
    step = sde_coefficients(t, t_next, noise_level=noise_level, t_second=t_second)
    mean = _per_sample(step.x_weight, x) * x + _per_sample(step.v_weight, x) * v
    x_next = mean + _per_sample(step.noise_scale, x) * noise
    return x_next, mean, step.std.to(x.device, torch.float32)


def transition_log_prob(x_next: Tensor, mean: Tensor, std: Tensor | float, dt: Time) -> Tensor:
    """Log-probability of a transition, quadratic term only, averaged over (N, C).

    ``mean over (N, C) of -(x_next - mean)^2 / (2 std^2 (-dt))``; the normaliser does not depend on
    the policy and is left out on both sides of the ratio (method: section 1.2, "Image part").

    Args:
        x_next: [B, N, C] as sampled.
        mean: [B, N, C] of the transition; the gradient flows through it.
        std: sigma without sqrt(-dt), scalar or [B]; must not be 0 (an Euler step has no density).
        dt: t_next - t, negative; float or [B].

    Returns:
        [B] float32, at most 0; each sample's bits do not depend on the batch.

    Raises:
        ValueError: if ``dt`` is a float that is not negative.
    """
    if not isinstance(dt, Tensor) and not dt < 0:
        raise ValueError(f"dt = t_next - t must be negative while drawing, got {dt}")
    variance = torch.as_tensor(std, dtype=torch.float64).square()
    width = -torch.as_tensor(dt, dtype=torch.float64, device=variance.device)
    weight = _per_sample(1.0 / (2.0 * variance * width), mean)
    return -sample_mean((x_next - mean).square() * weight)


def cps_step(
    x: Tensor, v: Tensor, t: Time, t_next: Time, noise: Tensor, *, noise_level: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Flow-CPS: a noisy step that keeps the marginal's noise level exact (method: section 1.2).

    ``std = t_next sin(noise_level pi / 2)``, ``data = x - t v``, ``noise_hat = x + (1 - t) v``,
    ``mean = (1 - t_next) data + sqrt(t_next^2 - std^2) noise_hat``, ``x_next = mean + std noise``.
    Its log-probability is the mean over (N, C) of ``-(x_next - mean)^2``, without a division.

    Args:
        x: [B, N, C] latents at time ``t``.
        v: [B, N, C] velocity.
        t: time of ``x``.
        t_next: next time; at 0 the step is deterministic.
        noise: [B, N, C] standard normal.
        noise_level: in [0, 1].

    Returns:
        ``(x_next, mean, std)``: [B, N, C], [B, N, C], scalar or [B].

    Raises:
        ValueError: if ``noise_level`` is outside [0, 1].
    """
    if not 0.0 <= noise_level <= 1.0:
        raise ValueError(f"Flow-CPS needs a noise level in [0, 1], got {noise_level}")
    now = torch.as_tensor(t, dtype=torch.float64)
    then = torch.as_tensor(t_next, dtype=torch.float64, device=now.device)
    std = then * math.sin(noise_level * math.pi / 2.0)
    kept = (then.square() - std.square()).clamp_min(0.0).sqrt()
    data = x - _per_sample(now, x) * v
    noise_hat = x + _per_sample(1.0 - now, x) * v
    mean = _per_sample(1.0 - then, x) * data + _per_sample(kept, x) * noise_hat
    x_next = mean + _per_sample(std, x) * noise
    return x_next, mean, std.to(x.device, torch.float32)


def euler_step(x: Tensor, v: Tensor, t: Time, t_next: Time) -> Tensor:
    """The deterministic step ``x + v (t_next - t)`` of latents and velocity [B, N, C]."""
    now = torch.as_tensor(t, dtype=torch.float64)
    dt = torch.as_tensor(t_next, dtype=torch.float64, device=now.device) - now
    return x + v * _per_sample(dt, x)


def _per_sample(value: Tensor, like: Tensor) -> Tensor:
    """A float64 scalar or [B], in ``like``'s precision but at least float32, to broadcast."""
    value = value.to(like.device, torch.promote_types(like.dtype, torch.float32))
    return value if value.ndim == 0 else value.reshape(-1, *[1] * (like.ndim - 1))


def _check_times(t: float, t_next: float, t_second: float) -> None:
    if not 0.0 <= t_next < t <= 1.0:
        raise ValueError(
            f"a drawing step needs 0 <= t_next < t <= 1, got t = {t}, t_next = {t_next}; "
            "take neighbours of shifted_times"
        )
    if t == 1.0 and not 0.0 < t_second < 1.0:
        raise ValueError(
            f"at t = 1 the noise uses the schedule's second time, in (0, 1), got {t_second}; "
            "the schedule needs at least 3 points"
        )
