"""The plain rollout worker: a policy that draws groups and pictures. No Ray in sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alphagrpo import seeds
from alphagrpo.algorithms import format_bonus
from alphagrpo.config import RunConfig
from alphagrpo.config.schema import TextSampling
from alphagrpo.flow import Window, draw_window
from alphagrpo.models import weights
from alphagrpo.models.lora import trainable_parameters
from alphagrpo.models.unified import UnifiedModel
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.rollout.contexts import Branches, Ids, Prefix, read_prefix, read_thoughts
from alphagrpo.rollout.denoising import FlowPlan, Path, denoise, start_noise
from alphagrpo.rollout.thinking import Thought, think
from alphagrpo.types import (
    GivenText,
    Group,
    ImageSegment,
    RolloutJob,
    TextSegment,
    Trajectory,
    WeightsManifest,
)


class Tokenizer(Protocol):
    """Text to ids and back, without framing ids on the way in."""

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, no framing ids added."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ``token_ids``, think tags included."""
        ...


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What a batch of sequences thought and drew."""

    thoughts: list[Thought]
    log_probs: Tensor | None
    path: Path
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Keys:
    """What each sequence's random numbers are a function of."""

    thoughts: Sequence[int]
    noise: Sequence[int]
    samples: Sequence[int]
    """Counter word of thought and window noise."""
    starts: Sequence[int]
    """Counter word of the start noise; equal where samples share it."""


class RolloutWorker:
    """Draws with one set of weights at a time.

    Example: ``RolloutWorker(model, tokenizer, config).draw(job)``
    """

    def __init__(self, model: UnifiedModel, tokenizer: Tokenizer, config: RunConfig) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.manifest: WeightsManifest | None = None
        self._parameters = trainable_parameters(cast(nn.Module, model), config.model.trainable)
        task, side = config.task, model.pixels_per_token
        self.grid = (task.height // side, task.width // side)
        self._system = np.asarray(tokenizer.encode(task.system_prompt), np.int64)

    @property
    def version(self) -> int:
        """Version of the weights in use; -1 before the first."""
        return -1 if self.manifest is None else self.manifest.version

    def apply_weights(self, manifest: WeightsManifest, chunks: Sequence[weights.Chunk]) -> None:
        """Use the published weights; WeightsError where they are broken, and the old ones stay."""
        weights.apply(self._parameters, manifest, chunks)
        self.manifest = manifest

    @torch.no_grad()
    def draw(self, job: RolloutJob) -> Group:
        """All samples of ``job``, without scores: a function of the job and the weights alone.

        The whole group is one batch; replay has the same geometry (docs/parity.md).
        """
        size, prompt = job.group_size, job.prompt
        shared = seeds.group_seed(job.seed, prompt.id, job.visit)
        own = [seeds.sample_seed(job.seed, prompt.id, job.visit, i) for i in range(size)]
        flow = self.config.rollout.flow
        window = draw_window(flow.window.length, flow.window.allowed, shared)
        plan = FlowPlan.for_training(self.config, window)
        prefix = read_prefix(self.model, self._system, [self._encode(prompt.text)]).expand(size)
        starts = [0] * size if flow.start_noise == "group" else range(size)
        keys = _Keys(own, [shared] * size, range(size), starts)
        drawn = self._draw(prefix, plan, self.config.rollout.text, keys)
        images = self._image_segments(drawn, window, shared)
        texts = self._text_segments(drawn)
        given = GivenText(token_ids=self._encode(prompt.text))
        system = GivenText(token_ids=self._system, role="system")
        return Group(
            job=job,
            trajectories=tuple(
                Trajectory(
                    id=f"{job.run}/{prompt.id}/{job.visit}/{i}",
                    sample=i,
                    seed=own[i],
                    policy_version=self.version,
                    segments=(system, given, *texts[i], images[i]),
                    well_formed=bool(texts[i])
                    and format_bonus(self._text(texts[i][0].token_ids)) > 0,
                )
                for i in range(size)
            ),
        )

    def _text_segments(self, drawn: _Drawn) -> list[tuple[TextSegment, ...]]:
        """Each sample's thought as a segment, or nothing in a run without thinking."""
        if drawn.log_probs is None:
            return [()] * len(drawn.pixels)
        scores = drawn.log_probs.cpu().numpy()
        return [
            (
                TextSegment(
                    token_ids=thought.ids,
                    log_probs=row[: len(thought.ids)].copy(),
                    finished=thought.finished,
                ),
            )
            for thought, row in zip(drawn.thoughts, scores, strict=True)
        ]

    def _image_segments(self, drawn: _Drawn, window: Window, seed: int) -> list[ImageSegment]:
        path = drawn.path
        assert path.latents is not None
        assert path.log_probs is not None
        final, latents, scores = (
            tensor.float().cpu().numpy() for tensor in (path.final, path.latents, path.log_probs)
        )
        return [
            ImageSegment(
                window_start=window.start,
                latents=latents[i],
                log_probs=scores[i],
                noise_seed=seed,
                final_latents=final[i],
                pixels=drawn.pixels[i],
            )
            for i in range(len(drawn.pixels))
        ]

    @torch.no_grad()
    def pictures(self, requests: Sequence[PictureRequest]) -> tuple[Picture, ...]:
        """One picture per request, with the evaluation's settings, all in one padded batch."""
        numbers = [request.seed for request in requests]
        prompts = [self._encode(request.prompt.text) for request in requests]
        plan, text = FlowPlan.for_evaluation(self.config), self.config.evaluation.text
        prefix = read_prefix(self.model, self._system, prompts)
        nought = [0] * len(numbers)
        drawn = self._draw(prefix, plan, text, _Keys(numbers, numbers, nought, nought))
        return tuple(
            Picture(
                prompt=request.prompt,
                thought=self._text(drawn.thoughts[i].ids) if drawn.thoughts else "",
                pixels=drawn.pixels[i],
                policy_version=self.version,
            )
            for i, request in enumerate(requests)
        )

    def describe(self, trajectory: Trajectory) -> str:
        """A trajectory's thought as text, without the closing end id."""
        return "" if trajectory.text is None else self._text(trajectory.text.token_ids)

    def _draw(self, prefix: Prefix, plan: FlowPlan, text: TextSampling, keys: _Keys) -> _Drawn:
        """Think and draw a batch of one sequence per key."""
        context, log_probs = prefix.full, None
        thoughts: list[Thought] = []
        if self.config.task.think:
            thoughts = think(
                self.model,
                context,
                seeds=keys.thoughts,
                samples=keys.samples,
                sampling=text,
                max_tokens=self.config.task.max_think_tokens,
            )
            read = read_thoughts(
                self.model, context, [t.ids for t in thoughts], [t.finished for t in thoughts]
            )
            context, log_probs = read.context, read.log_probs
        shape = (self.grid[0] * self.grid[1], self.model.latent_channels)
        path = denoise(
            self.model,
            Branches.of(context, prefix.text_free),
            plan,
            start_noise(keys.noise, keys.starts, shape, context.mask.device),
            self.grid,
            seeds=keys.noise,
            samples=keys.samples,
        )
        return _Drawn(thoughts, log_probs, path, self._decode(path.final))

    def _decode(self, latents: Tensor) -> NDArray[np.uint8]:
        pixels = self.model.decode_latents(latents, self.grid).clamp(-1, 1)
        levels = ((pixels + 1.0) * 127.5).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _encode(self, text: str) -> Ids:
        return np.asarray(self.tokenizer.encode(text), np.int64)

    def _text(self, ids: Ids) -> str:
        inner = ids[:-1] if len(ids) and ids[-1] == self.model.special.text_end else ids
        return self.tokenizer.decode(inner.tolist())
