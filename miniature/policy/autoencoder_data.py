"""What the miniature autoencoder learns from: random pictures, exchanged cells, and noised latents.

Legend of shapes: B picture, Z latent channel, h = w = 6 latent positions per side.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor

from alphagrpo.models.bagel.autoencoder import Autoencoder
from alphagrpo.models.bagel.embeddings import unpatchify
from alphagrpo.shapes.render import masks, render, render_many
from alphagrpo.shapes.specs import random_scene
from alphagrpo.shapes.world import GRID, MAX_OBJECTS, Scene
from miniature.pixels import to_pixels
from miniature.policy.latent_table import LatentTable

BATCH = 16
LATENT_PATCH = 2
CROWDED = 9
"""Objects in the fullest training picture: one in every cell, to see more shapes per picture."""
LATENT_NOISE = 0.35
"""Largest spread of the noise on scaled latents in the decoder's own leg."""
POOL = 3000
"""Pictures the decoder learns from alone, encoded once."""
GRAY_SHARE = 0.4
"""Share of those which are put on gray on top of chance: contrast is lowest there."""


def with_gray(scene: Scene, rng: np.random.Generator, share: float = GRAY_SHARE) -> Scene:
    """The scene, put on gray with that chance."""
    return Scene(scene.objects, "gray") if rng.random() < share else scene


def random_pictures(
    rng: np.random.Generator, count: int, sparse: float, gray: float = 0.0
) -> Tensor:
    """Renders of random scenes, half with varied shades, a tenth blended with another."""
    crowd = np.where(rng.random(count) < sparse, MAX_OBJECTS, CROWDED)
    scenes = [random_scene(rng, int(most)) for most in crowd]
    scenes = [with_gray(scene, rng, gray) for scene in scenes]
    renders = np.stack([render(scene, rng if rng.random() < 0.5 else None) for scene in scenes])
    pixels = to_pixels(renders)
    share = torch.from_numpy((rng.random(count) < 0.1) * rng.random(count) * 0.5).float()
    return torch.lerp(pixels, pixels.roll(1, 0), share[:, None, None, None])


def random_exchange(rng: np.random.Generator, count: int) -> Tensor:
    """[B, 1, 3, 3] which cells come from the neighbouring picture; none in half the pictures."""
    rate = np.where(rng.random(count) < 0.5, 0.0, rng.random(count))
    return torch.from_numpy(rng.random((count, 1, GRID, GRID)) < rate[:, None, None, None])


def exchanged_cells(tensor: Tensor, exchanged: Tensor) -> Tensor:
    """Each picture with the exchanged cells of the next picture in the batch."""
    side = tensor.shape[-1] // GRID
    mask = exchanged.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return torch.where(mask, tensor.roll(1, 0), tensor)


@cache
def kind_weights() -> Tensor:
    """[1, 1, H, W] weight of a pixel's error: up to 9 where the kinds of shape differ."""
    spread = torch.from_numpy(masks().std(axis=0))
    return (1.0 + 8.0 * spread / spread.max()).repeat(GRID, GRID)[None, None]


class DecoderObjective:
    """Loss of the last leg, in which only the decoder learns: what policies draw is never exact."""

    def __init__(self, autoencoder: Autoencoder, seed: int, pictures: int = POOL) -> None:
        rng = np.random.default_rng([seed, pictures])
        pixels = random_pictures(rng, pictures, 0.6, GRAY_SHARE)
        with torch.no_grad():
            latents = torch.cat([autoencoder.encode(part) for part in pixels.split(64)])
        # What policies draw is nearer to the table they were taught with than to the encoder.
        table = LatentTable.measure(autoencoder, LATENT_PATCH, seed, pictures)
        scenes = [with_gray(random_scene(rng), rng) for _ in range(pictures)]
        looked_up = unpatchify(table(scenes), (GRID, GRID), LATENT_PATCH)
        self.autoencoder = autoencoder
        self.pixels = torch.cat([pixels, to_pixels(render_many(scenes))])
        self.latents = torch.cat([latents, looked_up])

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """Weighted error of decoding noised latents with exchanged cells."""
        chosen = torch.from_numpy(rng.integers(0, len(self.pixels), BATCH))
        exchanged = random_exchange(rng, BATCH)
        clean = exchanged_cells(self.latents[chosen], exchanged)
        noised = clean + torch.rand(BATCH, 1, 1, 1) * LATENT_NOISE * torch.randn_like(clean)
        config = self.autoencoder.config
        decoded = self.autoencoder.kl.decoder(noised / config.scale_factor + config.shift_factor)
        error = decoded.float() - exchanged_cells(self.pixels[chosen], exchanged)
        loss = (kind_weights() * (error.abs() + error.square())).mean()
        return loss, {"l1": error.abs().mean().item()}
