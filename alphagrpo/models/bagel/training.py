"""BAGEL's interleaved training forward: samples in one row, cross-entropy and velocity error.

Before the decoder the pack's tokens are reordered so that each expert's are one slice; mask and
positions are reordered with them, which changes nothing for attention, and the hidden states are
put back afterwards.

Legend of shapes: S token of the pack, U of them understanding, M latent, K noised latent, E text
loss token, D hidden, C values per latent token, V picture, Z autoencoder channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from alphagrpo.models.bagel.attention import bias_from
from alphagrpo.models.bagel.cache import cached_layers
from alphagrpo.models.bagel.packed import Pack

if TYPE_CHECKING:
    from alphagrpo.models.bagel.model import Bagel


@dataclass(frozen=True, slots=True)
class TrainingOutput:
    """What the training forward gives, and the losses made of it."""

    hidden: Tensor
    """[S, D] after the final norms, in the pack's order."""
    ce_per_token: Tensor
    """[E] cross-entropy, no reduction."""
    mse_elements: Tensor
    """[K, C] squared error of the velocity."""
    ce_weights: Tensor
    """[E]."""

    @property
    def ce_loss(self) -> Tensor:
        """Mean over text loss tokens; 0 where there are none."""
        return self.ce_per_token.sum() / max(self.ce_per_token.numel(), 1)

    @property
    def ce_loss_reweighted(self) -> Tensor:
        """Mean over text loss tokens weighted by 1 / sqrt(length of the text)."""
        total = self.ce_weights.sum().clamp_min(torch.finfo(torch.float32).tiny)
        return (self.ce_per_token * self.ce_weights).sum() / total

    @property
    def mse_loss(self) -> Tensor:
        """Mean over channels, then over noised tokens; 0 where there are none."""
        return self.mse_elements.mean(dim=1).sum() / max(self.mse_elements.shape[0], 1)

    @property
    def loss(self) -> Tensor:
        """Sum of both, each with weight 1."""
        return self.ce_loss + self.mse_loss


def encode_padded(model: Bagel, pictures: Sequence[Tensor], noise: Tensor | None = None) -> Tensor:
    """Latents [V, Z, h, w] of pictures zero-padded (right, bottom) to the largest of them.

    The padding changes the whole latent, since group norm and attention see it; the released
    training does the same. ``noise`` [V, Z, h, w] samples the posterior.
    """
    height = max(p.shape[-2] for p in pictures)
    width = max(p.shape[-1] for p in pictures)
    padded = [
        functional.pad(p, (0, width - p.shape[-1], 0, height - p.shape[-2])) for p in pictures
    ]
    with torch.no_grad():
        return model.autoencoder.encode(torch.stack(padded), noise)


def clean_tokens(model: Bagel, pack: Pack, latents: Tensor) -> list[Tensor]:
    """Per picture, its latent tokens [1, N, C] cropped out of padded ``latents``."""
    side = model.config.latent_patch_size
    return [
        model.latents_to_tokens(latents[i : i + 1, :, : rows * side, : columns * side])
        for i, (rows, columns) in enumerate(pack.vae_grids)
    ]


def training_forward(
    model: Bagel,
    pack: Pack,
    *,
    flow_noise: Tensor,
    latents: Tensor | None = None,
    shift: float | None = None,
) -> TrainingOutput:
    """Forward one pack with gradient.

    Args:
        model: the model.
        pack: from :func:`build_pack`.
        flow_noise: [M, C] standard normal, one row per latent token (clean ones do not use theirs).
        latents: [V, Z, h, w] from :func:`encode_padded`; encoded here (posterior mean) where None.
        shift: of the times; None takes the config's ``training_timestep_shift``.
    """
    if latents is None and pack.vae_pixels:
        latents = encode_padded(model, pack.vae_pixels)
    shift = model.config.training_timestep_shift if shift is None else shift
    gen, target = _latent_inputs(model, pack, flow_noise, latents, shift)
    und, und_index = _understanding_inputs(model, pack)
    order = torch.cat([und_index, torch.tensor(pack.vae_token_indexes, dtype=torch.int64)])
    order = order.to(model.device)
    position = torch.tensor(pack.position_ids, device=model.device)[order][None]
    mask = torch.block_diag(*pack.masks()).bool().to(model.device)[order][:, order][None]
    none = model.empty_context(1)
    block = model.language_model.model(und, gen, position, bias_from(mask), cached_layers(none))
    joined = torch.cat([x for x in (block.und, block.gen) if x is not None], dim=1)[0]
    hidden = joined[torch.argsort(order)]
    return _losses(model, pack, hidden, target)


def _latent_inputs(
    model: Bagel, pack: Pack, flow_noise: Tensor, latents: Tensor | None, shift: float
) -> tuple[Tensor | None, Tensor]:
    """Decoder inputs [1, M, D] of latent tokens, and targets [K, C] of the noised ones."""
    inputs, targets, start = [], [flow_noise[:0]], 0
    pictures = [] if latents is None else clean_tokens(model, pack, latents)
    for clean, grid in zip(pictures, pack.vae_grids, strict=True):
        stop = start + clean.shape[1]
        noise = flow_noise[None, start:stop]
        raw = torch.tensor([pack.timesteps[start]], device=clean.device)
        t = torch.sigmoid(raw)
        t = shift * t / (1 + (shift - 1) * t)
        mixed = (1 - t)[:, None, None] * clean + t[:, None, None] * noise
        inputs.append(model.latent_inputs(mixed, t, grid))
        if torch.isfinite(raw):
            targets.append((noise - clean)[0])
        start = stop
    return (torch.cat(inputs, dim=1) if inputs else None), torch.cat(targets)


def _understanding_inputs(model: Bagel, pack: Pack) -> tuple[Tensor, Tensor]:
    """Decoder inputs [1, U, D] of text, markers and vision tokens, and their places [U]."""
    ids = torch.tensor(pack.text_ids, device=model.device)
    parts = [model.language_model.model.embed_tokens(ids)[None]]
    parts += [model.vision_inputs(pixels[None]) for pixels in pack.vit_pixels]
    index = torch.tensor([*pack.text_indexes, *pack.vit_token_indexes], dtype=torch.int64)
    return torch.cat(parts, dim=1), index


def _losses(model: Bagel, pack: Pack, hidden: Tensor, target: Tensor) -> TrainingOutput:
    def index(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=hidden.device)

    logits = model.text_logits(hidden[index(pack.ce_loss_indexes)])
    velocity = model.velocity_head(hidden[index(pack.mse_loss_indexes)])
    return TrainingOutput(
        hidden=hidden,
        ce_per_token=functional.cross_entropy(logits, index(pack.label_ids), reduction="none"),
        mse_elements=(velocity - target).square(),
        ce_weights=torch.tensor(pack.ce_loss_weights, device=hidden.device),
    )
