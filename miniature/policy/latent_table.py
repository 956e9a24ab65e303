"""Latent tokens of scenes without running the encoder: each cell's content, looked up.

One image token is one cell, and the autoencoder is trained so that a cell's token depends on little
but that cell. A token is therefore the mean over random surroundings of the encoder's tokens for
(background, cell, content); it costs an index where the encoder costs a millisecond per picture.

Legend of shapes: B picture, S = 9 cells, G = 3 backgrounds, O = 25 contents (nothing, or one of 24
objects), C values per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from alphagrpo.models.bagel.autoencoder import Autoencoder
from alphagrpo.models.bagel.embeddings import patchify
from alphagrpo.shapes.render import render_many
from alphagrpo.shapes.specs import random_scene
from alphagrpo.shapes.world import BACKGROUND_NAMES, COLOUR_NAMES, GRID, KINDS, Scene
from miniature.pixels import to_pixels

CONTENTS = 1 + len(KINDS) * len(COLOUR_NAMES)
_OBJECT = {
    (kind, colour): 1 + k * len(COLOUR_NAMES) + c
    for k, kind in enumerate(KINDS)
    for c, colour in enumerate(COLOUR_NAMES)
}
_GROUND = {name: index for index, name in enumerate(BACKGROUND_NAMES)}


def content_ids(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Background [B, 1] and content of every cell [B, S] of scenes, as indices."""
    content = np.zeros((len(scenes), GRID * GRID), np.int64)
    for row, scene in zip(content, scenes, strict=True):
        for item in scene.objects:
            row[item.row * GRID + item.col] = _OBJECT[item.kind, item.colour]
    ground = np.array([[_GROUND[scene.background]] for scene in scenes], np.int64)
    return torch.from_numpy(ground), torch.from_numpy(content)


class LatentTable:
    """Mean latent tokens [G, S, O, C]; calling it with scenes gives [B, S, C]."""

    def __init__(self, tokens: Tensor, unexplained: float = 0.0) -> None:
        self.tokens = tokens
        self.unexplained = unexplained
        """Share of the tokens' variance that comes from a cell's surroundings."""
        self._cells = torch.arange(GRID * GRID)

    @classmethod
    @torch.no_grad()
    def measure(
        cls, autoencoder: Autoencoder, latent_patch: int, seed: int, pictures: int = 2400
    ) -> LatentTable:
        """Average the encoder's tokens over random scenes."""
        rng = np.random.default_rng([seed, pictures])
        scenes = [random_scene(rng) for _ in range(pictures)]
        parts = to_pixels(render_many(scenes)).split(100)
        tokens = torch.cat([patchify(autoencoder.encode(part), latent_patch) for part in parts])
        ground, content = content_ids(scenes)
        cells = torch.arange(GRID * GRID)
        flat = ((ground * GRID * GRID + cells) * CONTENTS + content).flatten()
        width = tokens.shape[-1]
        count = len(BACKGROUND_NAMES) * GRID * GRID * CONTENTS
        seen = torch.zeros(count).index_add_(0, flat, torch.ones(len(flat)))
        total = torch.zeros(count, width).index_add_(0, flat, tokens.reshape(-1, width))
        mean = total / seen.clamp_min(1)[:, None]
        residual = tokens.reshape(-1, width) - mean[flat]
        unexplained = float(residual.square().mean() / tokens.var())
        shaped = mean.view(len(BACKGROUND_NAMES), GRID * GRID, CONTENTS, width)
        return cls(_filled(shaped, seen.view(shaped.shape[:3])), unexplained)

    def __call__(self, scenes: Sequence[Scene]) -> Tensor:
        """Latent tokens [B, S, C] of scenes."""
        ground, content = content_ids(scenes)
        return self.tokens[ground, self._cells, content]


def _filled(mean: Tensor, seen: Tensor) -> Tensor:
    """Contents never met in a cell get their mean over the other cells of that background."""
    weight = seen / seen.sum(dim=1, keepdim=True).clamp_min(1)
    anywhere = (mean * weight[..., None]).sum(dim=1, keepdim=True)
    return torch.where((seen > 0)[..., None], mean, anywhere)
