"""Rectified-flow sampling as pure functions of tensors: times, guidance, SDE steps, SDE windows.

Convention throughout: t = 1 is noise, t = 0 is data, ``x_t = (1 - t) data + t noise`` and the
velocity is ``v = noise - data``, so that ``dt = t_next - t`` is negative while drawing.

Legend of shapes: B sample, N image token, C latent channel per token.
"""

from __future__ import annotations

from alphagrpo.flow.guidance import Branch, Guidance, guide
from alphagrpo.flow.reduce import ordered_sum, sample_mean
from alphagrpo.flow.schedule import shifted_times
from alphagrpo.flow.sde import (
    StepCoefficients,
    cps_step,
    euler_step,
    sde_coefficients,
    sde_step,
    transition_log_prob,
)
from alphagrpo.flow.window import Window, sample_window
from alphagrpo.options import Renorm

__all__ = [
    "Branch",
    "Guidance",
    "Renorm",
    "StepCoefficients",
    "Window",
    "cps_step",
    "euler_step",
    "guide",
    "ordered_sum",
    "sample_mean",
    "sample_window",
    "sde_coefficients",
    "sde_step",
    "shifted_times",
    "transition_log_prob",
]
