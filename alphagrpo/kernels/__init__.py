"""Kernels with a plain reference each; importing this needs neither Triton nor a GPU.

CUDA tensors run the Triton kernels, all others the reference. docs/kernels.md says what each gains.
"""

from __future__ import annotations

from alphagrpo.kernels.dispatch import Backend, has_triton, use_triton
from alphagrpo.kernels.layers import rms_norm, rotate, swiglu
from alphagrpo.kernels.philox import START_STEP
from alphagrpo.kernels.tokens import token_log_probs
from alphagrpo.kernels.transition import (
    Transition,
    gaussian_noise,
    guided_transition,
    replay_transition,
)

__all__ = [
    "START_STEP",
    "Backend",
    "Transition",
    "gaussian_noise",
    "guided_transition",
    "has_triton",
    "replay_transition",
    "rms_norm",
    "rotate",
    "swiglu",
    "token_log_probs",
    "use_triton",
]
