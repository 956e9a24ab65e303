"""Guidance, SDE transition and log-probability as one operation, at rollout and at replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphagrpo.flow.guidance import Guidance
from alphagrpo.flow.sde import StepCoefficients, Time, sde_coefficients
from alphagrpo.kernels import reference
from alphagrpo.kernels.dispatch import Backend, use_triton
from alphagrpo.kernels.philox import reference_noise


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of a batch along the SDE."""

    x_next: Tensor
    """[B, N, C] float32, a constant."""
    mean: Tensor
    """[B, N, C] of the Gaussian it was sampled from; differentiable, for a KL term."""
    log_prob: Tensor
    """[B] mean over (N, C) of -(x_next - mean)^2 / (2 sigma^2 (-dt)); differentiable."""
    std: Tensor
    """sigma without sqrt(-dt), scalar or [B] float32."""


def guided_transition(
    x: Tensor,
    velocities: Sequence[Tensor],
    *,
    t: Time,
    t_next: Time,
    t_second: float,
    noise_level: float,
    guidance: Guidance,
    seeds: Tensor,
    samples: Tensor,
    step: int,
    backend: Backend = "auto",
) -> Transition:
    """Draw the next latents; the noise is a function of (seed, sample, step) alone.

    Guidance as in :func:`alphagrpo.flow.guide`, transition as in
    :func:`alphagrpo.flow.sde_coefficients` (AlphaGRPO, image objective; method: section 1.2).
    :func:`replay_transition` with the same arguments returns the same bits, on either backend, and
    each sample's bits are the same in any batch.

    Tolerance between backends, float32 inputs: noise 2e-6, x_next and mean 2e-6 of their largest
    entry, log_prob 2e-6, gradients 1e-5 of their largest entry.

    Args:
        x: [B, N, C] latents at ``t``; a constant.
        velocities: 1 to 3 tensors [B, N, C] in the order of :meth:`Guidance.branches`; a single
            one is taken unguided.
        t: time of ``x``, a float or [B].
        t_next: next, smaller time.
        t_second: the schedule's second time.
        noise_level: a > 0.
        guidance: scales and renormalisation; its interval is the caller's business.
        seeds: [B] int64.
        samples: [B] int64 in [0, 2^32).
        step: index of the step, below 2^32 - 1.
        backend: ``auto`` takes Triton for CUDA tensors.

    Raises:
        ValueError: for shapes other than these, no noise, or times that do not decrease.
    """
    coefficients = _checked_coefficients(x, velocities, t, t_next, t_second, noise_level)
    if seeds.shape != (x.shape[0],) or samples.shape != (x.shape[0],):
        raise ValueError(
            f"seeds and samples must hold one number per sample, [{x.shape[0]}], got "
            f"{tuple(seeds.shape)} and {tuple(samples.shape)}"
        )
    velocities, constant = _used(velocities, guidance), x.detach()
    if use_triton(backend, x.device):
        from alphagrpo.kernels.launch_transition import transition

        parts = transition(
            constant, None, velocities, coefficients, guidance, (seeds, samples, step)
        )
    else:
        mean = reference.transition_mean(constant, velocities, guidance, coefficients)
        noise = reference_noise(seeds, samples, step, x[0].numel()).view_as(x)
        x_next = reference.draw_next(mean.detach(), noise, coefficients)
        parts = (x_next, mean, reference.log_prob(x_next, mean, coefficients))
    return _result(parts, coefficients)


def replay_transition(
    x: Tensor,
    x_next: Tensor,
    velocities: Sequence[Tensor],
    *,
    t: Time,
    t_next: Time,
    t_second: float,
    noise_level: float,
    guidance: Guidance,
    backend: Backend = "auto",
) -> Transition:
    """Score a recorded transition, differentiably in every velocity branch.

    Arguments, results, tolerance and errors as in :func:`guided_transition`; ``x_next`` [B, N, C]
    is what was sampled then. With the velocities of the rollout the log-probability has the
    rollout's bits, so that the ratio is exactly 1.
    """
    coefficients = _checked_coefficients(x, velocities, t, t_next, t_second, noise_level)
    if x_next.shape != x.shape:
        raise ValueError(
            f"x_next must have the shape of x, {tuple(x.shape)}, got {tuple(x_next.shape)}"
        )
    velocities = _used(velocities, guidance)
    constant, target = x.detach(), x_next.detach()
    if use_triton(backend, x.device):
        from alphagrpo.kernels.launch_transition import transition

        parts = transition(constant, target, velocities, coefficients, guidance, None)
    else:
        mean = reference.transition_mean(constant, velocities, guidance, coefficients)
        parts = (target, mean, reference.log_prob(target, mean, coefficients))
    return _result(parts, coefficients)


def gaussian_noise(
    seeds: Tensor, samples: Tensor, step: int, shape: Sequence[int], *, backend: Backend = "auto"
) -> Tensor:
    """Standard normal noise [B, *shape] of each (seed, sample) at ``step``.

    With :data:`alphagrpo.kernels.START_STEP` it is the start noise at t = 1. To share the start
    noise within a group, give all its members the same sample number.

    Tolerance between backends: 2e-6.

    Args:
        seeds: [B] int64.
        samples: [B] int64 in [0, 2^32).
        step: in [0, 2^32).
        shape: of one sample, [N, C].
        backend: ``auto`` takes Triton for CUDA tensors.
    """
    size = 1
    for extent in shape:
        size *= extent
    if use_triton(backend, seeds.device):
        from alphagrpo.kernels.launch_transition import noise

        flat = noise(seeds, samples, step, size)
    else:
        flat = reference_noise(seeds, samples, step, size)
    return flat.view(seeds.shape[0], *shape)


def _used(velocities: Sequence[Tensor], guidance: Guidance) -> Sequence[Tensor]:
    """The branches that the scales let act: a text scale <= 1 switches off all guidance."""
    if guidance.text_scale <= 1.0:
        return velocities[:1]
    return velocities if guidance.image_scale > 1.0 else velocities[:2]


def _result(parts: tuple[Tensor, Tensor, Tensor], coefficients: StepCoefficients) -> Transition:
    x_next, mean, log_prob = parts
    std = coefficients.std.to(x_next.device, torch.float32)
    return Transition(x_next=x_next, mean=mean, log_prob=log_prob, std=std)


def _checked_coefficients(
    x: Tensor,
    velocities: Sequence[Tensor],
    t: Time,
    t_next: Time,
    t_second: float,
    noise_level: float,
) -> StepCoefficients:
    if x.ndim != 3 or not 1 <= len(velocities) <= 3:
        raise ValueError(
            f"a transition takes latents [B, N, C] and 1 to 3 velocity branches, got "
            f"{tuple(x.shape)} and {len(velocities)}"
        )
    for velocity in velocities:
        if velocity.shape != x.shape:
            raise ValueError(
                f"every velocity must have the latents' shape {tuple(x.shape)}, got "
                f"{tuple(velocity.shape)}"
            )
    if not noise_level > 0:
        raise ValueError(
            f"an SDE transition needs a positive noise level, got {noise_level}; without noise "
            "there is no density to score: use euler_step"
        )
    return sde_coefficients(t, t_next, noise_level=noise_level, t_second=t_second)
