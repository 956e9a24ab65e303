"""Launches the Triton transition kernels as one differentiable operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from alphagrpo.flow.guidance import Guidance
from alphagrpo.flow.sde import StepCoefficients
from alphagrpo.kernels.launch import aligned
from alphagrpo.kernels.triton_transition import (
    RENORM_CODES,
    noise_kernel,
    transition_backward_kernel,
    transition_kernel,
)

TILE = 2048
"""Elements a program holds at a time; fixed, because it is part of the order of summation."""
WARPS = 8


def transition(
    x: Tensor,
    x_next: Tensor | None,
    velocities: Sequence[Tensor],
    coefficients: StepCoefficients,
    guidance: Guidance,
    noise_key: tuple[Tensor, Tensor, int] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(x_next, mean, log_prob)``; draws x_next with ``noise_key`` if it is None.

    ``noise_key`` is (seeds [B], samples [B], step). Differentiable in the velocities.
    """
    batch = x.shape[0]
    table = torch.stack(
        [
            value.expand(batch).to(x.device, torch.float32)
            for value in (
                coefficients.x_weight,
                coefficients.v_weight,
                coefficients.noise_scale,
                coefficients.log_prob_weight,
            )
        ],
        dim=1,
    ).contiguous()
    if noise_key is None:
        nobody = torch.zeros(batch, dtype=torch.int64, device=x.device)
        noise_key = (nobody, nobody, 0)
    return _GuidedTransition.apply(
        _ready(x), x_next, table, guidance, noise_key, *[_ready(v) for v in velocities]
    )


def noise(seeds: Tensor, samples: Tensor, step: int, size: int) -> Tensor:
    """Standard normal noise [B, size] on the seeds' device."""
    out = torch.empty(seeds.shape[0], size, dtype=torch.float32, device=seeds.device)
    block = 1024
    noise_kernel[(seeds.shape[0], triton.cdiv(size, block))](
        _ready_ids(seeds),
        _ready_ids(samples),
        out,
        step,
        SIZE=size,
        BLOCK=block,
        enable_fp_fusion=False,
    )
    return out


class _GuidedTransition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        recorded: Tensor | None,
        table: Tensor,
        guidance: Guidance,
        noise_key: tuple[Tensor, Tensor, int],
        *velocities: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        seeds, samples, step = noise_key
        x_next = torch.empty_like(x) if recorded is None else _ready(recorded)
        mean = torch.empty_like(x)
        log_prob = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
        ctx.launch = _launch_arguments(x, guidance, len(velocities))
        scales = (guidance.text_scale, guidance.image_scale, guidance.renorm_min)
        ctx.scales = tuple(float(scale) for scale in scales)
        transition_kernel[(x.shape[0],)](
            *_three(velocities), x, x_next, mean, log_prob, table,
            _ready_ids(seeds), _ready_ids(samples), step, int(recorded is None),
            *ctx.scales, **ctx.launch,
        )  # fmt: skip
        ctx.save_for_backward(x_next, mean, table, *velocities)
        ctx.mark_non_differentiable(x_next)
        ctx.set_materialize_grads(False)
        return x_next, mean, log_prob

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        _, grad_mean, grad_log_prob = grads
        x_next, mean, table, *velocities = ctx.saved_tensors
        if grad_mean is None and grad_log_prob is None:
            return (None,) * (5 + len(velocities))
        if grad_log_prob is None:
            grad_log_prob = mean.new_zeros(mean.shape[0])
        outputs = [torch.empty_like(v) for v in velocities]
        transition_backward_kernel[(mean.shape[0],)](
            *_three(velocities), x_next, mean, table, grad_log_prob.contiguous(),
            mean if grad_mean is None else grad_mean.contiguous(),
            *_three(outputs), *ctx.scales, **ctx.launch, HAS_GRAD_MEAN=grad_mean is not None,
        )  # fmt: skip
        return (None,) * 5 + tuple(outputs)


def _launch_arguments(x: Tensor, guidance: Guidance, branches: int) -> dict[str, Any]:
    _, tokens, channels = x.shape
    block_c = triton.next_power_of_2(channels)
    return {
        "N": tokens,
        "C": channels,
        "BLOCK_N": max(1, min(TILE // block_c, triton.next_power_of_2(tokens))),
        "BLOCK_C": block_c,
        "BRANCHES": branches,
        "RENORM": RENORM_CODES[guidance.renorm],
        "num_warps": WARPS,
        "enable_fp_fusion": False,
    }


def _three(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad to three pointers; the kernel does not touch those past the number of branches."""
    return tensors[0], tensors[min(1, len(tensors) - 1)], tensors[-1]


def _ready(tensor: Tensor) -> Tensor:
    return aligned(tensor.to(torch.float32))


def _ready_ids(tensor: Tensor) -> Tensor:
    return aligned(tensor.to(torch.int64))
