"""Positions, times and patches: everything that turns a picture into token inputs and back.

Legend of shapes: B picture, N token, C values per token, D hidden, Z channel, P patch side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def sincos_table(side: int, channels: int) -> Tensor:
    """Fixed two-dimensional position table [side * side, channels], row id = row * side + column.

    The first half of the channels encodes the column, the second half the row; each half is sines,
    then cosines, of ``position * 10000 ** (-j / (channels / 4))``.
    """
    quarter = channels // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angle = torch.arange(side, dtype=torch.float64)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    column = line[None, :, :].expand(side, side, -1)
    row = line[:, None, :].expand(side, side, -1)
    return torch.cat([column, row], dim=-1).reshape(side * side, channels).float()


def grid_ids(rows: int, columns: int, side: int, device: torch.device | None = None) -> Tensor:
    """Position ids [rows * columns] of a picture's tokens in a table of ``side`` columns.

    Raises:
        ValueError: the picture does not fit the table.
    """
    if rows > side or columns > side:
        raise ValueError(
            f"a picture may have at most {side}x{side} tokens, this one has {rows}x{columns}; "
            "resize it"
        )
    row = torch.arange(rows, device=device)
    return (row[:, None] * side + torch.arange(columns, device=device)).flatten()


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """[B, Z, H, W] to tokens [B, N, P*P*Z]: row-major, inside a token (row, column, channel)."""
    batch, channels, height, width = pixels.shape
    if height % patch or width % patch:
        raise ValueError(
            f"height and width must be multiples of the patch {patch}, got {height}x{width}; resize"
        )
    rows, columns = height // patch, width // patch
    cut = pixels.reshape(batch, channels, rows, patch, columns, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch * patch * channels)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Inverse of :func:`patchify`: tokens [B, N, P*P*Z] to [B, Z, rows * P, columns * P]."""
    rows, columns = grid
    batch, _, width = tokens.shape
    channels = width // (patch * patch)
    cut = tokens.reshape(batch, rows, columns, patch, patch, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, rows * patch, columns * patch)


def rotary(position: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., head_dim] in float32 of ``position`` [...], each frequency twice."""
    exponent = torch.arange(0, head_dim, 2, device=position.device, dtype=torch.float32) / head_dim
    angle = position[..., None].float() * theta**-exponent
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


class PositionTable(nn.Module):
    """A fixed sin-cos table under the checkpoint's name ``pos_embed``."""

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        self.side = side
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", sincos_table(side, channels))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Rows [N, D] of the table for a picture of ``grid`` tokens."""
        ids = grid_ids(*grid, self.side, self.pos_embed.device)
        return self.pos_embed[ids]


class TimeEmbedder(nn.Module):
    """Flow time in 0..1, used as it is, to a hidden vector: 256 sinusoids, linear, SiLU, linear."""

    def __init__(self, hidden: int, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(
            nn.Linear(frequencies, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )

    def sinusoid(self, t: Tensor) -> Tensor:
        """[B] to [B, frequencies] in float32: cosines first, then sines."""
        half = self.frequencies // 2
        index = torch.arange(half, device=t.device, dtype=torch.float32)
        angle = t.float()[..., None] * torch.exp(index * (-math.log(10000.0) / half))
        return torch.cat([angle.cos(), angle.sin()], dim=-1)

    def forward(self, t: Tensor) -> Tensor:
        """Embed ``t`` [B] to [B, D]."""
        return self.mlp(self.sinusoid(t).to(next(self.mlp.parameters()).dtype))


class Connector(nn.Module):
    """Two linear layers from the vision transformer's width to the decoder's."""

    def __init__(self, vision: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision, hidden)
        self.fc2 = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[..., vision width] to [..., D]."""
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))
