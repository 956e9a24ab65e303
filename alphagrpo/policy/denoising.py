"""Drawing pictures: Euler steps, and inside the window SDE steps that can be scored again.

Legend of shapes: B sample, K trained SDE step, N image token, C latent channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphagrpo.config.sampling import FlowConfig, GuidanceConfig
from alphagrpo.flow import Guidance, Window, euler_step, guide, shifted_times
from alphagrpo.kernels import START_STEP, Transition, gaussian_noise, guided_transition
from alphagrpo.kernels import replay_transition as replay_kernel
from alphagrpo.models.unified import UnifiedModel
from alphagrpo.policy.contexts import Branches


@dataclass(frozen=True, slots=True)
class FlowPlan:
    """The steps of one picture batch."""

    times: tuple[float, ...]
    """From 1 to 0, ``num_points`` of them."""
    guidance: Guidance
    noise_level: float
    window: Window | None
    """Which steps are SDE steps; None for Euler steps throughout."""
    has_image: bool = False
    """Whether the context holds a picture, so that image guidance may act."""

    @classmethod
    def for_training(
        cls, flow: FlowConfig, window: Window, *, guided: bool, has_image: bool = False
    ) -> FlowPlan:
        """The rollout's plan, which replay shares.

        Without guidance in training (``guided`` false) both sides leave it out: a picture drawn
        with guidance has no likelihood under the policy without.
        """
        window.check(flow.num_points)
        guidance = flow.guidance
        if not guided:
            guidance = guidance.model_copy(update={"text_scale": 1.0, "image_scale": 1.0})
        times = _times(flow.num_points, flow.shift)
        return cls(times, _guidance(guidance), flow.noise_level, window, has_image)

    @classmethod
    def euler(
        cls, num_points: int, shift: float, guidance: GuidanceConfig, *, has_image: bool = False
    ) -> FlowPlan:
        """Euler steps throughout: drafts, evaluation, and pictures for people."""
        return cls(_times(num_points, shift), _guidance(guidance), 0.0, None, has_image)

    @property
    def needs_image_branch(self) -> bool:
        """Whether any step evaluates the image-free branch."""
        return max(map(self.num_branches, range(len(self.times) - 1))) > 2

    def num_branches(self, step: int) -> int:
        """How many guidance branches step ``step`` evaluates."""
        return len(self.guidance.branches(self.times[step], has_image=self.has_image))


@dataclass(frozen=True, slots=True)
class Path:
    """What was drawn."""

    final: Tensor
    """[B, N, C] the clean latents."""
    latents: Tensor | None
    """[B, K + 1, N, C] before the window's first step and after each of its steps."""
    log_probs: Tensor | None
    """[B, K]"""


def start_noise(
    seeds: Sequence[int],
    samples: Sequence[int],
    shape: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """Noise [B, N, C] at t = 1, a function of each (seed, sample) alone."""
    return gaussian_noise(_words(seeds, device), _words(samples, device), START_STEP, shape)


@torch.no_grad()
def denoise(
    model: UnifiedModel,
    branches: Branches,
    plan: FlowPlan,
    x: Tensor,
    grid: tuple[int, int],
    *,
    seeds: Sequence[int] = (),
    samples: Sequence[int] = (),
) -> Path:
    """Go from start noise ``x`` [B, N, C] to clean latents.

    ``seeds`` and ``samples`` (one per sample) key the window's noise; without a window they are not
    used.
    """
    keys = (_words(seeds, x.device), _words(samples, x.device))
    latents: list[Tensor] = []
    log_probs: list[Tensor] = []
    for step in range(len(plan.times) - 1):
        velocities = branches.velocities(model, x, plan.times[step], grid, plan.num_branches(step))
        if plan.window is None or step not in plan.window:
            x = _euler(x, velocities, plan, step)
            continue
        if not latents:
            latents.append(x)
        transition = guided_transition(
            x,
            velocities,
            t=plan.times[step],
            t_next=plan.times[step + 1],
            t_second=plan.times[1],
            noise_level=plan.noise_level,
            guidance=plan.guidance,
            seeds=keys[0],
            samples=keys[1],
            step=step,
        )
        x = transition.x_next
        latents.append(x)
        log_probs.append(transition.log_prob)
    if not latents:
        return Path(x, None, None)
    return Path(x, torch.stack(latents, dim=1), torch.stack(log_probs, dim=1))


def replay_step(
    model: UnifiedModel,
    branches: Branches,
    plan: FlowPlan,
    x: Tensor,
    x_next: Tensor,
    step: int,
    grid: tuple[int, int],
) -> Transition:
    """Score the recorded step from ``x`` to ``x_next`` [B, N, C], with the forward of the rollout.

    Differentiable in the model's parameters, through all guidance branches
    (method: section 2.3, "CFG in training").
    """
    return replay_kernel(
        x,
        x_next,
        branches.velocities(model, x, plan.times[step], grid, plan.num_branches(step)),
        t=plan.times[step],
        t_next=plan.times[step + 1],
        t_second=plan.times[1],
        noise_level=plan.noise_level,
        guidance=plan.guidance,
    )


def _euler(x: Tensor, velocities: Sequence[Tensor], plan: FlowPlan, step: int) -> Tensor:
    velocity, guidance = velocities[0], plan.guidance
    if len(velocities) > 1:
        velocity = guide(
            *velocities,
            text_scale=guidance.text_scale,
            image_scale=guidance.image_scale,
            renorm=guidance.renorm,
            renorm_min=guidance.renorm_min,
        )
    return euler_step(x, velocity, plan.times[step], plan.times[step + 1])


def _times(num_points: int, shift: float) -> tuple[float, ...]:
    return tuple(shifted_times(num_points, shift).tolist())


def _guidance(config: GuidanceConfig) -> Guidance:
    return Guidance(
        text_scale=config.text_scale,
        image_scale=config.image_scale,
        interval=config.interval,
        renorm=config.renorm,
        renorm_min=config.renorm_min,
    )


def _words(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64, device=device)
