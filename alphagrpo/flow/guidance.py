"""Classifier-free guidance with BAGEL's two scales and its renormalisation."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from alphagrpo.flow.reduce import ordered_sum
from alphagrpo.options import Renorm

Branch = Literal["cond", "uncond_text", "uncond_image"]

NORM_EPSILON = 1e-8
"""Added to the guided velocity's norm before dividing by it, as in the released model code."""
MIN_SQUARED_NORM = 1e-30
"""Floor under a squared norm, so that the square root has a gradient (0) at a zero velocity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """How strongly, when and with which renormalisation a picture is guided.

    Example: ``Guidance(text_scale=4.0, interval=(0.4, 1.0), renorm="global")``
    """

    text_scale: float = 4.0
    """<= 1 switches all guidance off, image guidance included."""
    image_scale: float = 1.0
    """<= 1 leaves the image branch out."""
    interval: tuple[float, float] = (0.4, 1.0)
    """(lo, hi]: guided while ``lo < t <= hi``, t after the shift."""
    renorm: Renorm = "global"
    renorm_min: float = 0.0
    """Smallest factor the renormalisation may scale by, in [0, 1]."""

    def __post_init__(self) -> None:
        lo, hi = self.interval
        if not lo < hi:
            raise ValueError(
                f"a guidance interval (lo, hi] needs lo < hi, got {self.interval}; "
                "to switch guidance off set text_scale to 1"
            )
        if self.renorm not in get_args(Renorm):
            raise ValueError(
                f"renorm must be one of {', '.join(get_args(Renorm))}, got {self.renorm!r}"
            )
        if not 0.0 <= self.renorm_min <= 1.0:
            raise ValueError(f"renorm_min must lie in [0, 1], got {self.renorm_min}")

    def active(self, t: float) -> bool:
        """Whether time ``t`` is guided at all.

        Times and bounds are compared as float32, which is what they are on the model's side: a
        schedule point that rounds to the bound lies on it.
        """
        lo, hi = self.interval
        return self.text_scale > 1.0 and _float32(lo) < _float32(t) <= _float32(hi)

    def branches(self, t: float, has_image: bool) -> tuple[Branch, ...]:
        """The branches to evaluate at time ``t``, in the order :func:`guide` takes them.

        ``has_image`` says whether the context holds an input image; without one the image-free
        context is the full context and its branch would change nothing.
        """
        if not self.active(t):
            return ("cond",)
        if has_image and self.image_scale > 1.0:
            return ("cond", "uncond_text", "uncond_image")
        return ("cond", "uncond_text")


def guide(
    cond: Tensor,
    uncond_text: Tensor,
    uncond_image: Tensor | None = None,
    *,
    text_scale: float,
    image_scale: float = 1.0,
    renorm: Renorm = "global",
    renorm_min: float = 0.0,
) -> Tensor:
    """Combine the branches' velocities, differentiably in all of them.

    With c = ``cond``, u = ``uncond_text``, i = ``uncond_image`` (BAGEL; method: section 10)::

        a = u + text_scale (c - u)
        a = i + image_scale (a - i)                      if image_scale > 1 and i is given
        a * clamp(|c| / (|a| + 1e-8), renorm_min, 1)

    ``global`` takes norms over (N, C) of each image, ``channel`` over C of each token;
    ``text_channel`` applies the per-token factor before the image line and none after it.
    ``text_scale`` <= 1 means no guidance at all: ``cond`` is returned, image guidance included.

    Args:
        cond: [B, N, C] velocity in the full context.
        uncond_text: [B, N, C] velocity in the context without the last text.
        uncond_image: [B, N, C] velocity in the context without images, or None.
        text_scale: weight of the text direction.
        image_scale: weight of the image direction.
        renorm: which norm is restored.
        renorm_min: smallest factor, in [0, 1].

    Returns:
        [B, N, C]; each sample's bits do not depend on the others in the batch.
    """
    if text_scale <= 1.0:
        return cond
    guided = uncond_text + text_scale * (cond - uncond_text)
    if renorm == "text_channel":
        guided = guided * _factor(cond, guided, renorm_min, per_token=True)
    if uncond_image is not None and image_scale > 1.0:
        guided = uncond_image + image_scale * (guided - uncond_image)
    if renorm in ("global", "channel"):
        guided = guided * _factor(cond, guided, renorm_min, per_token=renorm == "channel")
    return guided


def _factor(cond: Tensor, guided: Tensor, renorm_min: float, *, per_token: bool) -> Tensor:
    ratio = _norm(cond, per_token) / (_norm(guided, per_token) + NORM_EPSILON)
    return ratio.clamp(renorm_min, 1.0)


def _norm(velocity: Tensor, per_token: bool) -> Tensor:
    """Norm over C as [B, N, 1], or over (N, C) as [B, 1, 1], in the fixed order of addition."""
    squares = velocity.square()
    total = ordered_sum(squares if per_token else squares.flatten(start_dim=1))
    norm = total.clamp_min(MIN_SQUARED_NORM).sqrt()
    return norm[..., None] if per_token else norm[:, None, None]


def _float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])
