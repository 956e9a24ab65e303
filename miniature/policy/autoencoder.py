"""Pre-training of the miniature autoencoder: FLUX type, one BAGEL latent token per lattice cell.

Three things make its latents easy to draw for a small model: a KL term that keeps them near a unit
normal distribution, noise on what the decoder sees, and *exchanged cells* (latents of two pictures
mixed cell by cell must decode to the pictures mixed the same way), so that what a cell holds is
read from that cell's token alone.

Legend of shapes: B picture, Z latent channel, h = w = 6 latent positions per side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphagrpo.models.bagel.autoencoder import Autoencoder
from alphagrpo.models.bagel.config import AutoencoderConfig
from alphagrpo.models.bagel.sampling import to_bytes
from alphagrpo.shapes.oracle import read_many
from alphagrpo.shapes.render import render
from alphagrpo.shapes.specs import random_scene
from alphagrpo.shapes.world import SIZE, Scene
from miniature.pixels import to_pixels
from miniature.policy.autoencoder_data import (
    BATCH,
    POOL,
    DecoderObjective,
    exchanged_cells,
    random_exchange,
    random_pictures,
)
from miniature.training import TrainProgress, TrainSettings, fit

KL_WEIGHT = 2e-3
"""Per latent value, against the mean absolute plus squared error per colour value."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One leg of the training, with a cosine of its own."""

    name: str
    share: float
    """Of the whole budget; what is left is the decoder's."""
    learning_rate: float
    sparse: float
    """Share of pictures as the world has them; the others are crowded."""
    noise: float
    """Largest standard deviation of the noise the decoder learns to ignore; sampled per picture."""


EVENNESS = 0.35
"""Exponent that evens the latents' channels out; 0.5 would make all of them alike."""
PHASES = (Phase("crowded", 0.25, 2e-3, 0.0, 0.5), Phase("mixed", 0.12, 1.2e-3, 0.6, 0.8))
"""First many shapes quickly, then what pictures are really like; then the decoder alone."""
DECODER_RATE = 1e-3
MINUTES, STEPS = 36.0, 6500
"""Of all legs; the first bound ends each. Half the steps read a third of the pictures wrongly."""


def miniature_autoencoder_config() -> AutoencoderConfig:
    """8x down, 16 channels, 32 to 64 features: the released autoencoder but narrower."""
    return AutoencoderConfig(
        resolution=SIZE,
        ch=32,
        ch_mult=(1, 1, 2, 2),
        num_res_blocks=1,
        z_channels=16,
        scale_factor=1.0,
        shift_factor=0.0,
    )


def autoencoder_loss(
    autoencoder: Autoencoder, rng: np.random.Generator, phase: Phase = PHASES[0]
) -> tuple[Tensor, Mapping[str, float]]:
    """Mean |error| + mean error² + KL_WEIGHT · KL on one fresh batch, and its parts."""
    pixels, exchanged = random_pictures(rng, BATCH, phase.sparse), random_exchange(rng, BATCH)
    mean, log_variance = autoencoder.kl.encoder(pixels).float().chunk(2, dim=1)
    log_variance = log_variance.clamp(-12.0, 4.0)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    extra = torch.rand(BATCH, 1, 1, 1) * phase.noise
    spread = torch.sqrt(log_variance.exp() + extra.square())
    latents = exchanged_cells(mean + spread * torch.randn_like(mean), exchanged)
    error = autoencoder.kl.decoder(latents).float() - exchanged_cells(pixels, exchanged)
    absolute, squared = error.abs().mean(), error.square().mean()
    figures = {"l1": absolute.item(), "mse": squared.item(), "kl": kl.item()}
    return absolute + squared + KL_WEIGHT * kl, figures


@torch.no_grad()
def balance(autoencoder: Autoencoder, seed: int, pictures: int = 512) -> Autoencoder:
    """The same pictures from other latents: channels evened out, zero mean, unit spread.

    The background fills most of a picture and would fill most of the latents' variance, circle
    against square nearly none. With the channels' covariance C = V diag(l) V^T latents become
    W z, W = V diag(l^-EVENNESS) V^T. W goes into the encoder's last convolution and its inverse
    into the decoder's first, so that nothing else changes. (Of the posterior's variances, which the
    policy never samples, the mean over channels is kept right.)
    """
    rng = np.random.default_rng([seed, pictures])
    pixels = to_pixels(np.stack([render(random_scene(rng)) for _ in range(pictures)]))
    mean = torch.cat([autoencoder.moments(part) for part in pixels.split(64)]).chunk(2, 1)[0]
    channels = mean.shape[1]
    lengths, axes = torch.linalg.eigh(torch.cov(mean.transpose(0, 1).reshape(channels, -1)))
    lengths = lengths.clamp_min(1e-3 * float(lengths[-1]))
    change = axes @ torch.diag(lengths**-EVENNESS) @ axes.T
    mean = torch.einsum("ij,bjhw->bihw", change, mean)
    config = replace(
        autoencoder.config, scale_factor=float(1.0 / mean.std()), shift_factor=float(mean.mean())
    )
    balanced = Autoencoder(config)
    balanced.load_state_dict(autoencoder.state_dict())
    last, first = balanced.kl.encoder.conv_out, balanced.kl.decoder.conv_in
    last.weight[:channels] = torch.einsum("ij,jkhw->ikhw", change, last.weight[:channels])
    last.bias[:channels] = change @ last.bias[:channels]
    last.bias[channels:] += change.square().sum(1).log()
    back = torch.linalg.inv(change)
    first.weight.copy_(torch.einsum("ojhw,ji->oihw", first.weight, back))
    return balanced.eval().requires_grad_(False)


@torch.no_grad()
def reconstructions(
    autoencoder: Autoencoder, scenes: list[Scene], noise: float = 0.0
) -> NDArray[np.uint8]:
    """[B, H, W, 3] clean renders encoded and decoded, with noise of that spread on the latents."""
    pixels = to_pixels(np.stack([render(scene) for scene in scenes]))
    parts = []
    for part in pixels.split(64):
        latents = autoencoder.encode(part)
        parts.append(autoencoder.decode(latents + noise * torch.randn_like(latents)))
    return to_bytes(torch.cat(parts)).numpy()


def pretrain_autoencoder(
    *,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Callable[[TrainProgress], None] | None = None,
    config: AutoencoderConfig | None = None,
    pool: int = POOL,
) -> Autoencoder:
    """Train an autoencoder on renders and return it frozen, with its scale and shift set.

    Args:
        steps: optimizer steps of 16 pictures, shared by the three legs; where neither they nor
            ``minutes`` are set, 6,500 steps within 36 minutes.
        minutes: time budget of all three legs; the first bound ends each of them.
        seed: of weights and data.
        checkpoint: folder of the resumable state, or None.
        resume: continue from it.
        progress: called with the state of the run every few steps.
        config: another shape than the miniature's.
        pool: pictures encoded once for the decoder's leg.
    """
    if steps is None and minutes is None:
        steps, minutes = STEPS, MINUTES
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = Autoencoder(config or miniature_autoencoder_config())

        def leg(share: float, index: int, rate: float, name: str) -> TrainSettings:
            return TrainSettings(
                steps=None if steps is None else max(1, round(share * steps)),
                minutes=None if minutes is None else share * minutes,
                learning_rate=rate,
                seed=seed + index,
                checkpoint=checkpoint / name if checkpoint else None,
            )

        for index, phase in enumerate(PHASES):
            settings = leg(phase.share, index, phase.learning_rate, phase.name)
            objective = partial(_phase_loss, autoencoder, phase)
            fit(autoencoder, objective, settings, resume=resume, progress=progress)
        balanced = balance(autoencoder.eval(), seed, min(pool, 512))
        balanced.kl.decoder.requires_grad_(True)
        rest = 1.0 - sum(phase.share for phase in PHASES)
        settings = leg(rest, len(PHASES), DECODER_RATE, "decoder")
        decoding = DecoderObjective(balanced, seed, pool)
        fit(balanced, decoding, settings, resume=resume, progress=progress)
        return balanced.requires_grad_(False)


def _phase_loss(
    autoencoder: Autoencoder, phase: Phase, step: int, rng: np.random.Generator
) -> tuple[Tensor, Mapping[str, float]]:
    return autoencoder_loss(autoencoder, rng, phase)


def read_alike(autoencoder: Autoencoder, scenes: list[Scene]) -> list[bool]:
    """Whether the oracle reads each scene from its render as encoded and decoded."""
    readings = read_many(reconstructions(autoencoder, scenes))
    return [
        (reading.background, {(o.kind, o.colour, o.row, o.col) for o in reading.objects})
        == (scene.background, {tuple(o) for o in scene.objects})
        for reading, scene in zip(readings, scenes, strict=True)
    ]
