"""Whether new weights change what the policy computes, and the same weights do not.

Checksums say that the right bytes arrived. They do not say that anything uses them: adapters bound
to no module, or converted once and never again, train for months without a trace.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alphagrpo.errors import WeightsError
from alphagrpo.models.unified import UnifiedModel
from alphagrpo.types import WeightsManifest

log = logging.getLogger(__name__)

GRID = (2, 2)
"""Rows and columns of the probe's picture, in tokens."""
TEXT_TOKENS = 8
MOST_WITHOUT = 3
"""Versions in a row that may change nothing: one small step can be lost in the rounding of
bfloat16, several cannot.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the policy made of the probe with one version's weights."""

    checksum: str
    """Of the weights."""
    output: Tensor
    """Logits and velocities in one row, on the CPU."""
    without: int = 0
    """Versions up to this one that changed nothing."""


class WeightsEffect:
    """Evaluates a fixed input after every change of weights, and compares."""

    def __init__(self, model: UnifiedModel) -> None:
        self._model = model
        self._last: Answer | None = None
        self.relative: float | None = None
        """How far the newest weights moved the output from that of those before, as a share of its
        norm; None before there are two.
        """

    def check(self, manifest: WeightsManifest) -> None:
        """Look at the weights in use, those of ``manifest``.

        Raises:
            WeightsError: where other weights give the same output, for the third time in a row, or
                the same weights another; nothing is remembered of them then.
        """
        output, last = probe_output(self._model), self._last
        without = 0
        if last is not None:
            moved = float((output - last.output).norm())
            if manifest.checksum == last.checksum:
                _refuse_drift(manifest, moved)
            elif moved == 0.0:
                without = last.without + 1
                _refuse_idle(manifest, without)
            self.relative = moved / max(float(last.output.norm()), 1e-30)
        self._last = Answer(manifest.checksum, output, without)


@torch.no_grad()
def probe_output(model: UnifiedModel) -> Tensor:
    """Logits of a short text, and velocities of a small picture drawn behind it: both experts."""
    empty = model.empty_context(1)
    device = empty.mask.device
    ids = torch.arange(TEXT_TOKENS, device=device)[None] + model.special.text_start
    lengths = torch.full((1,), TEXT_TOKENS, device=device)
    context, hidden = model.read_text(empty, ids % model.text_head().shape[0], lengths)
    tokens = GRID[0] * GRID[1]
    # Not torch's generator, whose numbers differ between devices.
    noise = np.random.default_rng(0).standard_normal((1, tokens, model.latent_channels), np.float32)
    t = torch.full((1,), 0.5, device=device)
    velocity = model.velocity(context, torch.from_numpy(noise).to(device), t, GRID)
    logits = model.text_logits(hidden[0, -1])
    return torch.cat([logits.flatten(), velocity.flatten()]).float().cpu()


def _refuse_drift(manifest: WeightsManifest, moved: float) -> None:
    if moved:
        raise WeightsError(
            f"the same weights must give the same output, those of version {manifest.version} "
            f"moved it by {moved:.2g}; the card does not repeat itself: set model.attention to "
            "math, and look for faults of its memory"
        )


def _refuse_idle(manifest: WeightsManifest, without: int) -> None:
    if without >= MOST_WITHOUT:
        raise WeightsError(
            f"new weights must change what the policy computes, {without} versions up to "
            f"{manifest.version} have other bytes and the same output; what trains is not what "
            "draws, or optimizer.lr is too small for the model's type"
        )
    log.warning(
        "weights %d changed no bit of the policy's output (%d in a row, %d end the run)",
        manifest.version, without, MOST_WITHOUT,
    )  # fmt: skip
