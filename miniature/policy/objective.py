"""The pre-training loss of the miniature policy: pictures, thoughts, and skills with pictures.

Each context is read once and several noised pictures follow it, invisible to each other as in
BAGEL's own training.

Legend of shapes: B context, Q picture per context, L token, N = 9 image tokens, C = 64 values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from alphagrpo.models.bagel import Bagel
from alphagrpo.models.bagel.attention import bias_from
from alphagrpo.models.bagel.cache import cached_layers
from alphagrpo.models.unified import Context
from alphagrpo.shapes.render import render
from alphagrpo.shapes.specs import random_scene
from alphagrpo.shapes.world import GRID
from miniature.pixels import to_pixels
from miniature.policy.autoencoder_data import CROWDED, POOL
from miniature.policy.corpus import Corpus, Drawing, Turn
from miniature.policy.latent_table import LatentTable

LATENT_GRID = (GRID, GRID)
"""Rows and columns of image tokens: one token per cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecipe:
    """Batch and weights of the losses; the defaults made the shipped weights."""

    contexts: int = 6
    queries: int = 8
    """Noised pictures after each context."""
    captions: int = 2
    comparisons: int = 14
    edits: int = 12
    """Of these and the two before, each step."""
    edit_queries: int = 3
    copy_steps: int = 100
    """First steps, in which crowded pictures are copied, in place of skills."""
    copies: int = 24
    copy_queries: int = 2
    thought_weight: float = 0.3
    answer_weight: float = 0.4
    edit_weight: float = 1.0
    time_mean: float = 0.9
    """Of the normal number whose sigmoid is the flow time."""
    time_std: float = 1.0
    condition_noise: float = 0.3
    """Largest spread of the noise on latents read as a condition: a policy's are never clean."""
    encoded: float = 0.3
    """Share of steps that encode the pictures to edit, as an edit of an uploaded picture does, and
    do not look their latents up, which are nearer to those of the policy's own drafts."""
    pixel_noise: float = 0.06
    """Largest spread of the noise on pixels read as a condition, in [-1, 1]."""
    table_pictures: int = 2400
    """Pictures over which latent tokens are averaged."""
    pool_pictures: int = POOL
    """Pictures of the autoencoder's last leg."""
    learning_rate: float = 1.5e-3
    ema: float = 0.995


def flow_loss(model: Bagel, context: Context, latents: Tensor, recipe: PolicyRecipe) -> Tensor:
    """Mean squared error of the velocity, ``x_t = (1-t) data + t noise``, ``v = noise - data``.

    Times are sampled as ``sigmoid(mean + std * normal)`` (BAGEL's training, with the mean in
    place of its shift).

    Args:
        model: the policy.
        context: B sequences.
        latents: [B, Q, N, C] clean tokens of the pictures after each context.
        recipe: where the times come from.
    """
    t = torch.sigmoid(torch.randn(latents.shape[:2]) * recipe.time_std + recipe.time_mean)
    noise = torch.randn_like(latents)
    noised = torch.lerp(latents, noise, t[..., None, None])
    return functional.mse_loss(velocities(model, context, noised, t), noise - latents)


def velocities(model: Bagel, context: Context, latents: Tensor, t: Tensor) -> Tensor:
    """Velocities [B, Q, N, C] of several noised pictures per context, in one block.

    The pictures share the context's keys and their rotary position and do not see each other, so
    this equals Q calls of ``model.velocity`` without copying the context Q times.
    """
    batch, queries, tokens, _ = latents.shape
    inputs = model.latent_inputs(latents.flatten(0, 1), t.flatten(), LATENT_GRID)
    inputs = inputs.view(batch, queries * tokens, -1)
    owner = torch.arange(queries)
    owner = torch.cat([owner.repeat_interleave(2), owner.repeat_interleave(tokens)])
    own = (owner[:, None] == owner).expand(batch, -1, -1)
    cached = context.mask[:, None].expand(-1, len(owner), -1)
    block = model.language_model.model(
        model.markers(batch).repeat(1, queries, 1),
        inputs,
        context.position[:, None],
        bias_from(torch.cat([cached, own], dim=2)),
        cached_layers(context),
    )
    return model.velocity_head(block.gen).view(latents.shape)


def padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Token rows to ([B, L], [B] lengths), padded on the right."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), max(1, int(lengths.max()))), fill)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return ids, lengths


def answer_loss(
    model: Bagel, hidden: Tensor, ids: Tensor, starts: Sequence[int], lengths: Tensor
) -> Tensor:
    """Mean cross-entropy of each row's last piece, which begins with ``<bos>`` at ``starts``.

    Inputs ``<bos> answer``, labels ``answer <eos>`` (BAGEL's training). Rows whose start is their
    length have no answer.
    """
    column = torch.arange(ids.shape[1] - 1)[None]
    answered = (column >= torch.tensor(starts)[:, None]) & (column < lengths[:, None] - 1)
    logits = model.text_logits(hidden[:, :-1][answered])
    return functional.cross_entropy(logits, ids[:, 1:][answered])


class PolicyObjective:
    """The whole pre-training loss of one step: pictures, thoughts and skills."""

    def __init__(
        self, model: Bagel, corpus: Corpus, table: LatentTable, recipe: PolicyRecipe
    ) -> None:
        self.model, self.corpus, self.table, self.recipe = model, corpus, table, recipe

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """The loss of a fresh batch, and its parts."""
        recipe = self.recipe
        picture, thought = self._drawings(rng)
        if step < recipe.copy_steps:
            answer, edit = picture.new_zeros(()), self._copies(rng)
        else:
            answer, edit = self._skills(rng)
        total = picture + recipe.thought_weight * thought
        total = total + recipe.answer_weight * answer + recipe.edit_weight * edit
        parts = {"picture": picture, "thought": thought, "answer": answer, "edit": edit}
        return total, {name: part.item() for name, part in parts.items()}

    def _drawings(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Losses of pictures and thoughts; long and short contexts apart, to pad less."""
        recipe = self.recipe
        batch = [self.corpus.drawing(rng, recipe.queries) for _ in range(recipe.contexts)]
        long = [drawing for drawing in batch if drawing.has_thought]
        short = [drawing for drawing in batch if not drawing.has_thought]
        parts = [self._picture_losses(part) for part in (long, short) if part]
        shares = [len(part) / len(batch) for part in (long, short) if part]
        picture = torch.stack([share * part[0] for share, part in zip(shares, parts, strict=True)])
        return picture.sum(), parts[0][1] if long else picture.new_zeros(())

    def _picture_losses(self, batch: Sequence[Drawing]) -> tuple[Tensor, Tensor]:
        recipe, model = self.recipe, self.model
        ids, lengths = padded([d.context for d in batch], model.special.text_end)
        empty = model.empty_context(len(batch))
        context, hidden = model.read_text(empty, ids, lengths)
        latents = self.table([scene for d in batch for scene in d.scenes])
        latents = latents.view(len(batch), recipe.queries, *latents.shape[1:])
        picture = flow_loss(model, context, latents, recipe)
        if not batch[0].has_thought:
            return picture, picture.new_zeros(())
        starts = [d.thought_start for d in batch]
        return picture, answer_loss(model, hidden, ids, starts, lengths)

    def _skills(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        recipe, model = self.recipe, self.model
        turns = [self.corpus.caption(rng) for _ in range(recipe.captions)]
        turns += [self.corpus.comparison(rng) for _ in range(recipe.comparisons)]
        spoken = len(turns)
        turns += [self.corpus.edit(rng) for _ in range(recipe.edits)]
        ids, lengths = padded([turn.texts for turn in turns], model.special.text_end)
        context, hidden = model.read_text(self._pictures_read(turns, rng), ids, lengths)
        answer = answer_loss(model, hidden, ids, [turn.answer_start for turn in turns], lengths)
        edits = context.rows(torch.arange(spoken, len(turns)))
        targets = [turn.target for turn in turns if turn.target is not None]
        latents = self.table(targets)[:, None].expand(-1, recipe.edit_queries, -1, -1)
        return answer, flow_loss(model, edits, latents, recipe)

    def _copies(self, rng: np.random.Generator) -> Tensor:
        """Loss of copying crowded pictures, which takes a look at each of the nine cells.

        Sparse pictures are predicted nearly as well from their background, and teach no copying.
        """
        recipe, model = self.recipe, self.model
        latents = self.table([random_scene(rng, CROWDED) for _ in range(recipe.copies)])
        spread = torch.rand(recipe.copies, 1, 1) * recipe.condition_noise
        noised = latents + spread * torch.randn_like(latents)
        context = model.read_latents(model.empty_context(recipe.copies), noised, LATENT_GRID)
        targets = latents[:, None].expand(-1, recipe.copy_queries, -1, -1)
        return flow_loss(model, context, targets, recipe)

    def _pictures_read(self, turns: Sequence[Turn], rng: np.random.Generator) -> Context:
        """Contexts that have read the system prompt, where there is one, and the picture."""
        model, recipe = self.model, self.recipe
        ids, lengths = padded([turn.system for turn in turns], model.special.text_end)
        before, _ = model.read_text(model.empty_context(len(turns)), ids, lengths)
        shades = rng if rng.random() < 0.5 else None
        pixels = to_pixels(np.stack([render(turn.scene, shades) for turn in turns]))
        noise = torch.rand(len(turns), 1, 1, 1) * recipe.pixel_noise
        pixels = (pixels + noise * torch.randn_like(pixels)).clamp(-1, 1)
        if rng.random() < recipe.encoded:
            latents = model.encode_pixels(pixels)
        else:
            latents = self.table([turn.scene for turn in turns])
        spread = torch.rand(len(turns), 1, 1) * recipe.condition_noise
        latents = latents + spread * torch.randn_like(latents)
        after = model.read_pixels(model.read_latents(before, latents, LATENT_GRID), pixels)
        return _unseen(before, after, torch.tensor([turn.seen for turn in turns]))


def _unseen(before: Context, after: Context, seen: Tensor) -> Context:
    """``after``, but rows that are not ``seen`` [B] have read no more than ``before``."""
    read = torch.arange(after.length) < before.length
    mask = after.mask & (seen[:, None] | read)
    return replace(after, mask=mask, position=torch.where(seen, after.position, before.position))
