"""Keys and values that a layer sees beside its own block: of a context, or in buffers that grow.

Legend of shapes: B sequence, T cached token, S token of the block, M token a buffer has room for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from alphagrpo.models.bagel.attention import ALIGNMENT, MASKED
from alphagrpo.models.bagel.config import LlmConfig
from alphagrpo.models.unified import Context

if TYPE_CHECKING:
    from alphagrpo.models.bagel.decoder import Decoded


class Past(Protocol):
    """What one layer has cached."""

    def joined(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Cached and new keys and values, each [B, kv_heads, T + S, head_dim]; the new ones are
        given as [B, S, kv_heads, head_dim].
        """
        ...


class Cached(NamedTuple):
    """Keys and values of a context, each [B, T, kv_heads, head_dim]: nothing changes them."""

    keys: Tensor
    values: Tensor

    def joined(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Past`."""
        return _heads_first(self.keys, k), _heads_first(self.values, v)


def cached_layers(context: Context) -> list[Cached]:
    """What a context holds, layer by layer."""
    return [Cached(*pair) for pair in zip(context.keys, context.values, strict=True)]


def grown(context: Context, block: Decoded, mask: Tensor, advance: Tensor | int) -> Context:
    """``context`` with a block behind it: which of its tokens are real [B, S], and how far rotary
    positions go on, [B] or for all.
    """

    def joined(past: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if context.length == 0:
            return new
        pairs = zip(past, new, strict=True)
        return tuple(torch.cat([p.to(n.dtype), n], dim=1) for p, n in pairs)

    return replace(
        context,
        keys=joined(context.keys, block.keys),
        values=joined(context.values, block.values),
        mask=torch.cat([context.mask, mask], dim=1),
        position=context.position + advance,
    )


class Written(NamedTuple):
    """One layer's part of a :class:`TokenCache`; :meth:`joined` writes the new token in its place.

    The first ``seen`` places are attended to, whatever is in those that are masked.
    """

    keys: Tensor
    """[B, kv_heads, M, head_dim]"""
    values: Tensor
    place: Tensor
    """[1] int64"""
    seen: int

    def joined(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Past`; S is 1."""
        for buffer, new in ((self.keys, k), (self.values, v)):
            buffer.index_copy_(2, self.place, new.transpose(1, 2).to(buffer.dtype))
        return self.keys[:, :, : self.seen], self.values[:, :, : self.seen]


class TokenCache:
    """Room for what a batch has read and for the tokens it will sample, allocated once.

    All rows write at the same place, those that have ended too: what they go on to say is heard by
    nobody. Where the next token goes is kept on the device, so that the same operations, with the
    same addresses, read every token: what a CUDA graph needs.
    """

    def __init__(
        self, config: LlmConfig, batch: int, room: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        room = -(-room // ALIGNMENT) * ALIGNMENT
        shape = (batch, config.num_key_value_heads, room, config.head_dim)
        self.room = room
        # Zeros, not empty: what is masked is multiplied by zero, and must be finite for that.
        self._layers = [
            (
                torch.zeros(shape, dtype=dtype, device=device),
                torch.zeros(shape, dtype=dtype, device=device),
            )
            for _ in range(config.num_hidden_layers)
        ]
        self.bias = torch.zeros(batch, 1, room, dtype=dtype, device=device)
        """[B, 1, M] added to the scores of a token."""
        self.position = torch.zeros(batch, dtype=torch.int64, device=device)
        """[B] the next rotary position of each row."""
        self.place = torch.zeros(1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def load(self, context: Context) -> None:
        """Begin behind ``context``, of as many sequences; its tokens and one more must fit."""
        length = context.length
        for (keys, values), k, v in zip(self._layers, context.keys, context.values, strict=True):
            keys[:, :, :length] = k.transpose(1, 2)
            values[:, :, :length] = v.transpose(1, 2)
        self.bias.fill_(MASKED)
        self.bias[:, 0, :length].masked_fill_(context.mask, 0.0)
        self.position.copy_(context.position)
        self.place.fill_(length)

    def layers(self, seen: int) -> list[Written]:
        """Each layer's part, for a token that sees the first ``seen`` places, its own included."""
        return [Written(keys, values, self.place, seen) for keys, values in self._layers]

    def admit(self) -> None:
        """Let every row see the place that is written next: a token sees itself."""
        self.bias.index_fill_(2, self.place, 0.0)

    def advance(self) -> None:
        """Go on to the next place."""
        self.position.add_(1)
        self.place.add_(1)


def _heads_first(past: Tensor, new: Tensor) -> Tensor:
    """Cached and new tokens together as [B, kv_heads, T + S, head_dim], in one copy."""
    new = new.transpose(1, 2)
    if past.shape[1] == 0:
        return new.contiguous()
    return torch.cat([past.to(new.dtype).transpose(1, 2), new], dim=2)
