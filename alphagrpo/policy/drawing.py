"""Think and draw: one batch of sequences from what they have read to their pictures.

Legend of shapes: B sequence, K trained SDE step, N image token, C latent channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphagrpo.config.sampling import SamplingParams
from alphagrpo.flow import Window
from alphagrpo.models.unified import UnifiedModel
from alphagrpo.policy.contexts import Branches, Prefix, read_thoughts
from alphagrpo.policy.denoising import FlowPlan, Path, denoise, start_noise
from alphagrpo.policy.thinking import Thought, ThoughtSampler, think
from alphagrpo.policy.working import DECODED_AT_ONCE
from alphagrpo.types import ImageSegment, TextSegment


@dataclass(frozen=True, slots=True)
class RandomKeys:
    """What each sequence's random numbers are a function of."""

    thoughts: Sequence[int]
    noise: Sequence[int]
    samples: Sequence[int]
    """Counter word of thought and window noise."""
    starts: Sequence[int]
    """Counter word of the start noise; equal where samples share it."""

    @classmethod
    def of_requests(cls, seeds: Sequence[int]) -> RandomKeys:
        """Sequences that have nothing to do with one another."""
        nought = [0] * len(seeds)
        return cls(seeds, seeds, nought, nought)


@dataclass(frozen=True, slots=True)
class ThoughtSettings:
    """How a batch thinks before it draws."""

    sampling: SamplingParams
    max_tokens: int
    sampler: ThoughtSampler | None = None
    """None takes the reference."""


@dataclass(frozen=True, slots=True)
class GeneratedBatch:
    """What a batch of sequences thought and drew."""

    thoughts: list[Thought]
    """Empty where nothing was thought."""
    log_probs: Tensor | None
    path: Path
    pixels: NDArray[np.uint8]
    """[B, H, W, 3]"""

    @property
    def latents(self) -> NDArray[np.float32]:
        """[B, N, C] the clean ends of the paths."""
        return self.path.final.float().cpu().numpy()

    def text_segments(self) -> list[tuple[TextSegment, ...]]:
        """Each sequence's thought as a segment, or nothing in a run without thinking."""
        if self.log_probs is None:
            return [()] * len(self.pixels)
        scores = self.log_probs.cpu().numpy()
        return [
            (
                TextSegment(
                    token_ids=thought.ids,
                    log_probs=row[: len(thought.ids)].copy(),
                    finished=thought.finished,
                ),
            )
            for thought, row in zip(self.thoughts, scores, strict=True)
        ]

    def image_segments(self, window: Window, seed: int) -> list[ImageSegment]:
        """Each sequence's picture with its SDE window, drawn from the noise of ``seed``."""
        assert self.path.latents is not None, "drawn with a window"
        assert self.path.log_probs is not None, "drawn with a window"
        final = self.latents
        latents, scores = (
            t.float().cpu().numpy() for t in (self.path.latents, self.path.log_probs)
        )
        return [
            ImageSegment(
                window_start=window.start,
                latents=latents[i],
                log_probs=scores[i],
                noise_seed=seed,
                final_latents=final[i],
                pixels=self.pixels[i],
            )
            for i in range(len(self.pixels))
        ]


@torch.no_grad()
def draw_batch(
    model: UnifiedModel,
    prefix: Prefix,
    plan: FlowPlan,
    keys: RandomKeys,
    grid: tuple[int, int],
    thinking: ThoughtSettings | None,
) -> GeneratedBatch:
    """Think (if asked) and draw, one sequence per key; ``grid`` is rows and columns of tokens."""
    context, log_probs = prefix.full, None
    thoughts: list[Thought] = []
    if thinking is not None:
        sample = thinking.sampler or partial(think, model)
        thoughts = sample(
            context,
            seeds=keys.thoughts,
            samples=keys.samples,
            sampling=thinking.sampling,
            max_tokens=thinking.max_tokens,
        )
        ids, finished = [t.ids for t in thoughts], [t.finished for t in thoughts]
        read = read_thoughts(model, context, ids, finished)
        context, log_probs = read.context, read.log_probs
    shape = (grid[0] * grid[1], model.latent_channels)
    path = denoise(
        model,
        Branches.after(prefix, context),
        plan,
        start_noise(keys.noise, keys.starts, shape, context.mask.device),
        grid,
        seeds=keys.noise,
        samples=keys.samples,
    )
    return GeneratedBatch(thoughts, log_probs, path, decode(model, path.final, grid))


def decode(model: UnifiedModel, latents: Tensor, grid: tuple[int, int]) -> NDArray[np.uint8]:
    """Pictures [B, H, W, 3] as bytes of clean latents [B, N, C], :data:`DECODED_AT_ONCE` at a time.

    How many are decoded at once changes no picture, but where a kernel library picks its algorithm
    by it.
    """
    parts = []
    for part in latents.split(DECODED_AT_ONCE):
        pixels = model.decode_latents(part, grid).clamp(-1, 1)
        levels = ((pixels + 1.0) * 127.5).round().to(torch.uint8)
        parts.append(levels.permute(0, 2, 3, 1).contiguous().cpu().numpy())
    return np.concatenate(parts)
