"""What the mesh needs of a unified multimodal model: read, think, and give velocities.

Rollout and replay call the same methods with the same batch geometry, which is what makes their
log-probabilities equal bit for bit (docs/parity.md).

Legend of shapes: B sequence, T cached token, L text token, N image token, C latent channel,
D hidden, H/W pixels, R guidance branch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from alphagrpo.options import AttentionKernel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALL_LAYERS = sys.maxsize
"""For :meth:`UnifiedModel.set_recompute`."""


@dataclass(frozen=True, slots=True)
class Context:
    """Cached keys and values of what a batch of sequences has read, and where each may go on.

    Reading returns a new context; nothing is written in place, so a context can be branched by
    keeping it, shared by a whole group through :meth:`expand`, and replayed with gradient.
    """

    keys: tuple[Tensor, ...]
    """Per layer [B, T, kv_heads, head_dim], after query-key norm and rotary embedding."""
    values: tuple[Tensor, ...]
    """Per layer [B, T, kv_heads, head_dim]."""
    mask: Tensor
    """[B, T] bool; False at padding, which nothing may attend to."""
    position: Tensor
    """[B] int64: the next rotary position of each sequence."""

    @property
    def batch(self) -> int:
        """Number of sequences B."""
        return self.mask.shape[0]

    @property
    def length(self) -> int:
        """Number of cached tokens T, padding included."""
        return self.mask.shape[1]

    def expand(self, batch: int) -> Context:
        """The context of one sequence seen by ``batch`` sequences, without a copy."""
        if self.batch != 1:
            raise ValueError(
                f"only a context of one sequence can be expanded, this one has {self.batch}"
            )
        return replace(
            self,
            keys=tuple(k.expand(batch, -1, -1, -1) for k in self.keys),
            values=tuple(v.expand(batch, -1, -1, -1) for v in self.values),
            mask=self.mask.expand(batch, -1),
            position=self.position.expand(batch),
        )

    def detach(self) -> Context:
        """The same context as a constant: what the image part sees of the thought."""
        return replace(
            self,
            keys=tuple(k.detach() for k in self.keys),
            values=tuple(v.detach() for v in self.values),
        )

    def rows(self, index: Tensor) -> Context:
        """The sequences at ``index`` [B'] of this context."""
        return replace(
            self,
            keys=tuple(k[index] for k in self.keys),
            values=tuple(v[index] for v in self.values),
            mask=self.mask[index],
            position=self.position[index],
        )


def pack(contexts: Sequence[Context]) -> Context:
    """Stack guidance branches along the batch: R contexts of B sequences become one of R * B.

    Shorter contexts are padded on the right with masked-out zeros up to the longest.
    """
    length = max(context.length for context in contexts)

    def padded(tensor: Tensor) -> Tensor:
        missing = length - tensor.shape[1]
        if missing == 0:
            return tensor
        shape = (tensor.shape[0], missing, *tensor.shape[2:])
        return torch.cat([tensor, tensor.new_zeros(shape)], dim=1)

    layers = range(len(contexts[0].keys))
    return Context(
        keys=tuple(torch.cat([padded(c.keys[i]) for c in contexts]) for i in layers),
        values=tuple(torch.cat([padded(c.values[i]) for c in contexts]) for i in layers),
        mask=torch.cat([padded(c.mask) for c in contexts]),
        position=torch.cat([c.position for c in contexts]),
    )


class AttentionShape(NamedTuple):
    """A block that a model reads, as attention sees it."""

    name: str
    batch: int
    queries: int
    keys: int
    """Those cached and the block's own."""
    causal: bool
    """Whether each query has a mask of its own; else all see everything."""

    def __str__(self) -> str:
        """In words."""
        return f"{self.name}: {self.batch} x {self.queries} queries, {self.keys} keys"


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the tokens that frame text and images."""

    text_start: int
    """``<|im_start|>``"""
    text_end: int
    """``<|im_end|>``"""
    image_start: int
    """``<|vision_start|>``"""
    image_end: int
    """``<|vision_end|>``"""


class TokenReader(Protocol):
    """Reads one token of each of B sequences after another, writing what it caches in place.

    Between :meth:`load` and the last :meth:`read` the host learns nothing and decides nothing, and
    every address stays, so that a read can be captured as a CUDA graph and replayed.
    """

    @property
    def room(self) -> int:
        """Tokens that fit, those of the context included."""
        ...

    def load(self, context: Context) -> None:
        """Begin behind ``context``, with the model's weights as they are now."""
        ...

    def read(self, ids: Tensor, seen: int) -> Tensor:
        """Read ``ids`` [B] as one more token of each sequence.

        Attention sees the first ``seen`` places, at least those written and the new one. Returns
        hidden states [B, D] after the final norm.
        """
        ...


@runtime_checkable
class UnifiedModel(Protocol):
    """A model that reads text and pictures, writes text, and denoises latents.

    Gradients flow through whatever is called with gradient enabled; callers use ``torch.no_grad``
    and :meth:`Context.detach` to say what is a constant.
    """

    special: SpecialTokens
    latent_channels: int
    """C: values per image token (latent patch squared times autoencoder channels; BAGEL: 64)."""
    pixels_per_token: int
    """Side of the square of pixels one image token covers (BAGEL: 16)."""

    def set_recompute(self, layers: int) -> None:
        """Recompute the first ``layers`` layers (:data:`ALL_LAYERS`: however many there are) in the
        backward pass instead of keeping their activations. The same gradient, bit for bit.
        """
        ...

    def set_attention(self, kernel: AttentionKernel) -> None:
        """Compute attention with ``kernel`` from now on."""
        ...

    def attention_trial(self, shape: AttentionShape) -> tuple[str, Callable[[], Tensor]]:
        """The kernel that a block of ``shape`` gets, and a call of it on one random input."""
        ...

    def empty_context(self, batch: int) -> Context:
        """A context of ``batch`` sequences that have read nothing (T = 0)."""
        ...

    def read_text(
        self, context: Context, token_ids: Tensor, lengths: Tensor
    ) -> tuple[Context, Tensor]:
        """Read ``token_ids`` [B, L] (framing ids included by the caller; right-padded) causally.

        ``lengths`` [B] counts each row's real tokens (0 allowed). Each real token takes one rotary
        position. Returns the longer context and the hidden states [B, L, D] after the final norm.
        """
        ...

    def token_reader(self, batch: int, room: int) -> TokenReader:
        """Buffers for ``room`` tokens of each of ``batch`` sequences, written in place."""
        ...

    def read_latents(self, context: Context, latents: Tensor, grid: tuple[int, int]) -> Context:
        """Read a clean picture given as latent tokens [B, N, C], N = rows * columns of ``grid``."""
        ...

    def read_pixels(self, context: Context, pixels: Tensor) -> Context:
        """Read a picture [B, 3, H, W] in [-1, 1] through the vision transformer."""
        ...

    def vision_pixels(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Pictures [B, H, W, 3] as bytes to what :meth:`read_pixels` takes, on the model's device.

        Resized to whole patches where the model's rule asks for it: a function of the bytes alone,
        so that rollout and replay see the same.
        """
        ...

    def text_logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits [..., V] in float32 of hidden states [..., D]."""
        ...

    def text_head(self) -> Tensor:
        """The head's weight [V, D], for kernels that never keep the logits."""
        ...

    def velocity(
        self, context: Context, latents: Tensor, t: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """Velocity (noise - data) [B, N, C] in float32 of noisy ``latents`` at time ``t`` [B].

        For guidance, pack R branch contexts with :func:`pack` and repeat ``latents`` R times, so
        that all branches go through one forward.
        """
        ...

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Latent tokens [B, N, C] of pictures [B, 3, H, W] in [-1, 1]; the posterior's mean."""
        ...

    def decode_latents(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] (not clamped) of latent tokens [B, N, C]."""
        ...
