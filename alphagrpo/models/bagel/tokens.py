"""Reading one token of each sequence after another, in buffers that stay where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alphagrpo.models.bagel.cache import TokenCache
from alphagrpo.models.lora import refresh
from alphagrpo.models.unified import Context

if TYPE_CHECKING:
    from alphagrpo.models.bagel.model import Bagel


class BagelTokens:
    """See :class:`alphagrpo.models.unified.TokenReader`."""

    def __init__(self, model: Bagel, batch: int, room: int) -> None:
        self._model = model
        self._cache = TokenCache(
            model.config.llm, batch, room, dtype=model.dtype, device=model.device
        )

    @property
    def room(self) -> int:
        """Tokens that fit, those of the context included."""
        return self._cache.room

    def load(self, context: Context) -> None:
        """Begin behind ``context``, with the model's weights as they are now."""
        refresh(self._model)
        self._cache.load(context)

    @torch.no_grad()
    def read(self, ids: Tensor, seen: int) -> Tensor:
        """Read ``ids`` [B]; returns hidden states [B, D]."""
        decoder = self._model.language_model.model
        self._cache.admit()
        block = decoder(
            decoder.embed_tokens(ids[:, None]),
            None,
            self._cache.position[:, None],
            self._cache.bias[..., :seen],
            self._cache.layers(seen),
        )
        self._cache.advance()
        assert block.und is not None
        return block.und[:, 0]
