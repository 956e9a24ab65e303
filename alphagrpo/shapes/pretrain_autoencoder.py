"""Pre-training of the miniature autoencoder: FLUX type, one BAGEL latent token per lattice cell.

Three things make its latents easy to draw for a small model: a KL term that keeps them near a unit
normal distribution, noise on what the decoder sees, and *exchanged cells* (latents of two pictures
mixed cell by cell must decode to the pictures mixed the same way), so that what a cell holds is
told by that cell's token alone.

Legend of shapes: B picture, Z latent channel, h = w = 6 latent positions per side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphagrpo.models.bagel.autoencoder import Autoencoder
from alphagrpo.models.bagel.config import AutoencoderConfig
from alphagrpo.shapes.render import masks, render
from alphagrpo.shapes.specs import random_scene
from alphagrpo.shapes.training import TrainProgress, TrainSettings, fit
from alphagrpo.shapes.world import GRID, MAX_OBJECTS, SIZE, Scene

BATCH = 16
KL_WEIGHT = 2e-3
"""Per latent value, against the mean absolute plus squared error per colour value."""
CROWDED = 9
"""Objects in the fullest training picture: one in every cell, to see more shapes per picture."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One leg of the training, with a cosine of its own."""

    name: str
    learning_rate: float
    sparse: float
    """Share of pictures as the world has them; the others are crowded."""
    noise: float
    """Largest standard deviation of the noise the decoder learns to ignore; drawn per picture."""


EVENNESS = 0.35
"""Exponent that evens the latents' channels out; 0.5 would make all of them alike."""
DRAWN_NOISE = 0.45
"""Largest spread of the noise on scaled latents in the decoder's own leg."""
PHASES = (Phase("crowded", 2e-3, 0.0, 0.5), Phase("mixed", 1.2e-3, 0.6, 0.8))
"""First many shapes quickly, then what pictures are really like; then the decoder alone."""
POOL = 3000
"""Pictures the decoder learns from alone, encoded once."""
DECODER_RATE = 1e-3


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


def to_pixels(pictures: NDArray[np.uint8]) -> Tensor:
    """[B, H, W, 3] bytes to [B, 3, H, W] in [-1, 1]."""
    values = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    return values.float() / 127.5 - 1.0


def to_bytes(pixels: Tensor) -> NDArray[np.uint8]:
    """[B, 3, H, W] in about [-1, 1] to [B, H, W, 3] bytes, clamped and truncated as BAGEL does."""
    values = (pixels.detach().float() * 0.5 + 0.5).clamp(0, 1) * 255
    return values.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _pictures(rng: np.random.Generator, count: int, sparse: float) -> Tensor:
    """Renders of random scenes, half with varied shades, a tenth blended with another."""
    crowd = np.where(rng.random(count) < sparse, MAX_OBJECTS, CROWDED)
    scenes = [random_scene(rng, int(most)) for most in crowd]
    drawn = np.stack([render(scene, rng if rng.random() < 0.5 else None) for scene in scenes])
    pixels = to_pixels(drawn)
    share = torch.from_numpy((rng.random(count) < 0.1) * rng.random(count) * 0.5).float()
    return torch.lerp(pixels, pixels.roll(1, 0), share[:, None, None, None])


def _exchange(rng: np.random.Generator, count: int) -> Tensor:
    """[B, 1, 3, 3] which cells come from the neighbouring picture; none in half the pictures."""
    rate = np.where(rng.random(count) < 0.5, 0.0, rng.random(count))
    return torch.from_numpy(rng.random((count, 1, GRID, GRID)) < rate[:, None, None, None])


def _mixed(tensor: Tensor, exchanged: Tensor) -> Tensor:
    """Each picture with the exchanged cells of the next picture in the batch."""
    side = tensor.shape[-1] // GRID
    mask = exchanged.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return torch.where(mask, tensor.roll(1, 0), tensor)


def autoencoder_loss(
    autoencoder: Autoencoder, rng: np.random.Generator, phase: Phase = PHASES[0]
) -> tuple[Tensor, Mapping[str, float]]:
    """Mean |error| + mean error² + KL_WEIGHT · KL on one fresh batch, and its parts."""
    pixels, exchanged = _pictures(rng, BATCH, phase.sparse), _exchange(rng, BATCH)
    mean, log_variance = autoencoder.kl.encoder(pixels).float().chunk(2, dim=1)
    log_variance = log_variance.clamp(-12.0, 4.0)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    extra = torch.rand(BATCH, 1, 1, 1) * phase.noise
    spread = torch.sqrt(log_variance.exp() + extra.square())
    latents = _mixed(mean + spread * torch.randn_like(mean), exchanged)
    error = autoencoder.kl.decoder(latents).float() - _mixed(pixels, exchanged)
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
    drawn = to_pixels(np.stack([render(random_scene(rng)) for _ in range(pictures)]))
    mean = torch.cat([autoencoder.moments(part) for part in drawn.split(64)]).chunk(2, 1)[0]
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


@cache
def kind_weights() -> Tensor:
    """[1, 1, H, W] weight of a pixel's error: up to 9 where the kinds of shape differ."""
    spread = torch.from_numpy(masks().std(axis=0))
    return (1.0 + 8.0 * spread / spread.max()).repeat(GRID, GRID)[None, None]


class DecoderObjective:
    """Loss of the last leg, in which only the decoder learns: what policies draw is never exact."""

    def __init__(self, autoencoder: Autoencoder, seed: int, pictures: int = POOL) -> None:
        rng = np.random.default_rng([seed, pictures])
        pixels = _pictures(rng, pictures, 0.6)
        with torch.no_grad():
            latents = torch.cat([autoencoder.encode(part) for part in pixels.split(64)])
        self.autoencoder, self.pixels, self.latents = autoencoder, pixels, latents

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """Weighted error of decoding noised latents with exchanged cells."""
        chosen = torch.from_numpy(rng.integers(0, len(self.pixels), BATCH))
        exchanged = _exchange(rng, BATCH)
        clean = _mixed(self.latents[chosen], exchanged)
        noised = clean + torch.rand(BATCH, 1, 1, 1) * DRAWN_NOISE * torch.randn_like(clean)
        config = self.autoencoder.config
        decoded = self.autoencoder.kl.decoder(noised / config.scale_factor + config.shift_factor)
        error = decoded.float() - _mixed(self.pixels[chosen], exchanged)
        loss = (kind_weights() * (error.abs() + error.square())).mean()
        return loss, {"l1": error.abs().mean().item()}


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
    return to_bytes(torch.cat(parts))


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
        steps: optimizer steps of 16 pictures, shared by both phases; at least one of steps and
            minutes is given.
        minutes: time budget on one thread (2 are enough for a look, 8 for the shipped weights).
        seed: of weights and data.
        checkpoint: folder of the resumable state, or None.
        resume: continue from it.
        progress: called with the state of the run every few steps.
        config: another shape than the miniature's.
        pool: pictures encoded once for the decoder's leg.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = Autoencoder(config or miniature_autoencoder_config())
        legs = len(PHASES) + 1
        base = TrainSettings(
            steps=None if steps is None else -(-steps // legs),
            minutes=None if minutes is None else minutes / legs,
            bf16=has_fast_bfloat16(),
        )
        for index, phase in enumerate(PHASES):
            settings = replace(
                base,
                learning_rate=phase.learning_rate,
                seed=seed + index,
                checkpoint=checkpoint / phase.name if checkpoint else None,
            )
            objective = partial(_phase_loss, autoencoder, phase)
            fit(autoencoder, objective, settings, resume=resume, progress=progress)
        balanced = balance(autoencoder.eval(), seed, min(pool, 512))
        balanced.kl.decoder.requires_grad_(True)
        settings = replace(
            base,
            learning_rate=DECODER_RATE,
            seed=seed + len(PHASES),
            checkpoint=checkpoint / "decoder" if checkpoint else None,
        )
        drawn = DecoderObjective(balanced, seed, pool)
        fit(balanced, drawn, settings, resume=resume, progress=progress)
        return balanced.requires_grad_(False)


def _phase_loss(
    autoencoder: Autoencoder, phase: Phase, step: int, rng: np.random.Generator
) -> tuple[Tensor, Mapping[str, float]]:
    return autoencoder_loss(autoencoder, rng, phase)


def has_fast_bfloat16() -> bool:
    """Whether bfloat16 products are quicker than float32 ones here (AMX)."""
    return bool(torch.cpu._is_amx_tile_supported())


def pixel_error(autoencoder: Autoencoder, scenes: list[Scene]) -> float:
    """Mean absolute error of reconstructions, in colour levels of 255."""
    drawn = torch.from_numpy(np.stack([render(scene) for scene in scenes])).float()
    return float(
        (torch.from_numpy(reconstructions(autoencoder, scenes)).float() - drawn).abs().mean()
    )
