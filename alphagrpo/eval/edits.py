"""The edit benchmark of the miniature world: pictures changed as asked, the rest left alone.

Edits of renders of held-out combinations, judged by the oracle from pixels. Settings are its own
and not a run's, so that every policy of the world is measured alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from alphagrpo.config.sampling import SamplingParams
from alphagrpo.flow import Guidance, shifted_times
from alphagrpo.models.unified import UnifiedModel
from alphagrpo.policy.contexts import Ids, ImageConditions, read_prefix
from alphagrpo.policy.denoising import FlowPlan
from alphagrpo.policy.drawing import GeneratedBatch, RandomKeys, ThoughtSettings, draw_batch
from alphagrpo.policy.loading import FolderTokenizer
from alphagrpo.seeds import derive
from alphagrpo.shapes.edits import EditName, edit, edit_outcome
from alphagrpo.shapes.language import SYSTEM_PROMPT
from alphagrpo.shapes.oracle import read_many
from alphagrpo.shapes.render import render_many
from alphagrpo.shapes.specs import sample_scene
from alphagrpo.shapes.splits import wordings
from alphagrpo.shapes.world import GRID, Scene

EDIT_NAMES: tuple[EditName, ...] = get_args(EditName)
LATENT_GRID = (GRID, GRID)


EVERYWHERE = (0.0, 1.0)
"""Guided at every time: the miniature decides where objects go at the noisy end already."""


def miniature_guidance(text_scale: float) -> Guidance:
    """Guidance as the miniature's runs use it: at all times, no renormalisation."""
    return Guidance(text_scale=text_scale, interval=EVERYWHERE, renorm="none")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How pictures are drawn for an evaluation; the defaults are those of a run's."""

    num_points: int = 16
    shift: float = 3.0
    guidance: Guidance = field(default_factory=lambda: miniature_guidance(2.0))
    sampling: SamplingParams = field(
        default_factory=lambda: SamplingParams(temperature=0.3, top_p=1.0)
    )
    max_think_tokens: int = 40
    batch: int = 128

    @property
    def plan(self) -> FlowPlan:
        """Euler steps throughout."""
        times = tuple(float(t) for t in shifted_times(self.num_points, self.shift))
        return FlowPlan(times, self.guidance, 0.0, None)


def edit_benchmark(
    model: UnifiedModel,
    tokenizer: FolderTokenizer,
    n: int = 256,
    seed: int = 0,
    settings: EvaluationSettings | None = None,
) -> dict[str, float]:
    """Edits of renders of held-out combinations, one instruction each, a thought before drawing.

    Args:
        model: the policy, in evaluation mode.
        tokenizer: its tokenizer.
        n: edits in all; the five kinds take turns, where a picture allows.
        seed: of scenes, edits, thoughts and noise.
        settings: how thoughts are sampled and pictures drawn.

    Returns:
        ``edit.n``, and the shares ``edit.followed`` (what was asked has happened), ``edit.kept``
        (everything else is as before, cell by cell) and ``edit.both``; the same of each kind, as
        ``edit.both.recolour``, NaN where it did not come up.
    """
    settings, rng = settings or EvaluationSettings(), np.random.default_rng(derive("edit", seed))
    scenes = [sample_scene(wording.spec, rng) for wording in wordings("heldout", "plain", n, seed)]
    changes = [edit(scene, rng, EDIT_NAMES[i % 5]) for i, scene in enumerate(scenes)]
    outcomes = []
    for part in batches(n, settings.batch):
        renders = encoded_renders(model, scenes[part])
        requests = [change.instruction for change in changes[part]]
        seeds = [derive("edit", seed, i) for i in range(n)[part]]
        edited = draw_requests(model, tokenizer, renders, requests, seeds, settings)
        cases = zip(scenes[part], changes[part], read_many(edited.pixels), strict=True)
        outcomes += [edit_outcome(*case) for case in cases]
    rows = np.array([(o.followed, o.kept, o.followed and o.kept) for o in outcomes], float)
    names = np.array([change.name for change in changes])
    result = {"edit.n": float(n)}
    for suffix, chosen in (("", slice(None)), *((f".{k}", names == k) for k in EDIT_NAMES)):
        for key, column in zip(("followed", "kept", "both"), rows[chosen].T, strict=True):
            result[f"edit.{key}{suffix}"] = share(column)
    return result


@torch.no_grad()
def encoded_renders(model: UnifiedModel, scenes: list[Scene]) -> ImageConditions:
    """Clean renders as conditions, encoded as an uploaded picture is."""
    pixels = render_many(scenes)
    return ImageConditions(model.encode_pixels(model.vision_pixels(pixels)), pixels, LATENT_GRID)


def draw_requests(
    model: UnifiedModel,
    tokenizer: FolderTokenizer,
    pictures: ImageConditions | None,
    requests: Sequence[str],
    seeds: Sequence[int],
    settings: EvaluationSettings,
) -> GeneratedBatch:
    """Think about each request, after its picture [H, W, 3] if there is one, and draw."""
    plan = replace(settings.plan, has_image=pictures is not None)
    prefix = read_prefix(
        model,
        _ids(tokenizer, SYSTEM_PROMPT),
        [_ids(tokenizer, request) for request in requests],
        pictures,
        image_branch=plan.needs_image_branch,
    )
    thinking = ThoughtSettings(settings.sampling, settings.max_think_tokens)
    return draw_batch(model, prefix, plan, RandomKeys.of_requests(seeds), LATENT_GRID, thinking)


def batches(n: int, batch: int) -> Iterator[slice]:
    """Slices of at most ``batch`` that cover ``n`` cases."""
    return (slice(start, min(start + batch, n)) for start in range(0, n, batch))


def share(column: Sequence[bool] | NDArray) -> float:
    """The share of true values; NaN of none."""
    return float(np.mean(column)) if len(column) else math.nan


def _ids(tokenizer: FolderTokenizer, text: str) -> Ids:
    return np.asarray(tokenizer.encode(text), np.int64)
