"""The layout of interleaved training samples in one row, as the released data pipeline has it.

Text pieces are causal splits, pictures bidirectional ones, and a noised picture is seen by no other
split (BAGEL, training). :mod:`alphagrpo.models.bagel.training` runs the model over a pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from alphagrpo.models.bagel.embeddings import grid_ids

if TYPE_CHECKING:
    from alphagrpo.models.bagel.model import Bagel

SplitMode = Literal["causal", "full", "noise"]


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text, framed by the start and end ids when packed."""

    ids: tuple[int, ...]
    """Without framing ids."""
    loss: bool = False
    """Cross-entropy on ``ids`` and the end id, predicted from the start id and ``ids``."""


@dataclass(frozen=True, slots=True)
class VisionPiece:
    """A picture read through the vision transformer."""

    pixels: Tensor
    """[3, H, W] in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class LatentPiece:
    """A picture as autoencoder latents: clean, or noised and to be denoised."""

    pixels: Tensor
    """[3, H, W] in [-1, 1]."""
    raw_time: float | None = None
    """Before sigmoid and shift; None means clean (t = 0)."""


Piece = TextPiece | VisionPiece | LatentPiece


@dataclass(slots=True)
class Pack:
    """The index lists of a packed row, under the names of the released data pipeline's fields."""

    text_ids: list[int] = field(default_factory=list)
    text_indexes: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    vit_token_indexes: list[int] = field(default_factory=list)
    vit_position_ids: list[int] = field(default_factory=list)
    vit_token_seqlens: list[int] = field(default_factory=list)
    vae_token_indexes: list[int] = field(default_factory=list)
    latent_position_ids: list[int] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)
    """Per latent token, before sigmoid and shift; -inf for a clean picture."""
    mse_loss_indexes: list[int] = field(default_factory=list)
    ce_loss_indexes: list[int] = field(default_factory=list)
    label_ids: list[int] = field(default_factory=list)
    ce_loss_weights: list[float] = field(default_factory=list)
    """1 / sqrt(length of its text) per text loss token."""
    split_lens: list[int] = field(default_factory=list)
    attn_modes: list[SplitMode] = field(default_factory=list)
    sample_lens: list[int] = field(default_factory=list)
    splits_per_sample: list[int] = field(default_factory=list)
    vit_pixels: list[Tensor] = field(default_factory=list)
    vae_pixels: list[Tensor] = field(default_factory=list)
    vae_grids: list[tuple[int, int]] = field(default_factory=list)

    def masks(self) -> list[Tensor]:
        """Per sample [S_i, S_i] bool: True where the query's row may attend to the key's column."""
        masks, start = [], 0
        for count in self.splits_per_sample:
            stop = start + count
            masks.append(split_mask(self.split_lens[start:stop], self.attn_modes[start:stop]))
            start = stop
        return masks


def split_mask(lengths: Sequence[int], modes: Sequence[SplitMode]) -> Tensor:
    """Attention mask [S, S] of one sample's splits."""
    total = sum(lengths)
    mask = torch.ones(total, total, dtype=torch.bool).tril()
    start = 0
    for length, mode in zip(lengths, modes, strict=True):
        stop = start + length
        if mode == "noise":
            mask[:, start:stop] = False
        if mode != "causal":
            mask[start:stop, start:stop] = True
        start = stop
    return mask


class _Packer:
    """Appends pieces to a pack; keeps the running token index and rotary position."""

    def __init__(self, model: Bagel) -> None:
        self.model = model
        self.config = model.config
        self.pack = Pack()
        self.index = 0
        self.position = 0

    def text(self, piece: TextPiece) -> None:
        pack, special = self.pack, self.model.special
        ids = [special.text_start, *piece.ids, special.text_end]
        here = range(self.index, self.index + len(ids))
        pack.text_ids += ids
        pack.text_indexes += here
        pack.position_ids += range(self.position, self.position + len(ids))
        if piece.loss:
            # Every input but the closing end id predicts its successor.
            pack.ce_loss_indexes += here[:-1]
            pack.label_ids += ids[1:]
            pack.ce_loss_weights += [(len(ids) - 1) ** -0.5] * (len(ids) - 1)
        self._close(len(ids), "causal", advance=len(ids))

    def vision(self, piece: VisionPiece) -> None:
        pack = self.pack
        grid = self.model.vision_grid(piece.pixels)
        count = grid[0] * grid[1]
        pack.vit_token_indexes += self._frame(count)
        pack.vit_position_ids += grid_ids(*grid, self.config.vit_max_num_patch_per_side).tolist()
        pack.vit_token_seqlens.append(count)
        pack.vit_pixels.append(piece.pixels)
        self._close(count + 2, "full", advance=1)

    def latent(self, piece: LatentPiece) -> None:
        pack, side = self.pack, self.model.pixels_per_token
        grid = (piece.pixels.shape[-2] // side, piece.pixels.shape[-1] // side)
        count = grid[0] * grid[1]
        inner = self._frame(count)
        noised = piece.raw_time is not None
        pack.vae_token_indexes += inner
        pack.latent_position_ids += grid_ids(*grid, self.config.max_latent_size).tolist()
        pack.timesteps += [float("-inf") if piece.raw_time is None else piece.raw_time] * count
        pack.mse_loss_indexes += inner if noised else []
        pack.vae_pixels.append(piece.pixels)
        pack.vae_grids.append(grid)
        # A noised picture is seen by nobody, so what follows stands where it stands.
        self._close(count + 2, "noise" if noised else "full", advance=0 if noised else 1)

    def _frame(self, count: int) -> range:
        pack, special = self.pack, self.model.special
        pack.text_ids += [special.image_start, special.image_end]
        pack.text_indexes += [self.index, self.index + count + 1]
        pack.position_ids += [self.position] * (count + 2)
        return range(self.index + 1, self.index + 1 + count)

    def _close(self, length: int, mode: SplitMode, advance: int) -> None:
        self.pack.split_lens.append(length)
        self.pack.attn_modes.append(mode)
        self.index += length
        self.position += advance

    def sample(self, pieces: Sequence[Piece]) -> None:
        start, splits = self.index, len(self.pack.split_lens)
        self.position = 0
        for piece in pieces:
            if isinstance(piece, TextPiece):
                self.text(piece)
            elif isinstance(piece, VisionPiece):
                self.vision(piece)
            else:
                self.latent(piece)
        self.pack.sample_lens.append(self.index - start)
        self.pack.splits_per_sample.append(len(self.pack.split_lens) - splits)


def build_pack(model: Bagel, samples: Sequence[Sequence[Piece]]) -> Pack:
    """Lay out samples, each a sequence of pieces, in one row."""
    packer = _Packer(model)
    for pieces in samples:
        packer.sample(pieces)
    return packer.pack
