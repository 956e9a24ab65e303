"""BAGEL as a :class:`~alphagrpo.models.unified.UnifiedModel`.

Legend of shapes: B sequence, T cached token, L text token, N image token, C values per latent
token, D hidden, V vocabulary, Z autoencoder channel, H/W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from alphagrpo.models.bagel.attention import attend, bias_from, chosen, random_inputs
from alphagrpo.models.bagel.autoencoder import Autoencoder
from alphagrpo.models.bagel.cache import cached_layers, grown
from alphagrpo.models.bagel.config import BagelConfig
from alphagrpo.models.bagel.decoder import BOTH, GEN, NONE, Decoded, LanguageModel
from alphagrpo.models.bagel.embeddings import (
    Connector,
    PositionTable,
    TimeEmbedder,
    grid_ids,
    patchify,
    unpatchify,
)
from alphagrpo.models.bagel.precision import wide_linear
from alphagrpo.models.bagel.tokens import BagelTokens
from alphagrpo.models.bagel.vit import VisionTransformer, whole_patches
from alphagrpo.models.unified import AttentionShape, Context, SpecialTokens
from alphagrpo.options import AttentionKernel


class Bagel(nn.Module):
    """Two-expert decoder with shared attention, vision transformer, and autoencoder.

    ``state_dict`` has exactly the names of the released ``ema.safetensors``. The autoencoder is not
    part of it, is never trained with the rest and stays in float32: see :attr:`autoencoder`.
    """

    def __init__(self, config: BagelConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.llm.hidden_size
        special = config.special
        self.special = SpecialTokens(
            text_start=special.bos_token_id,
            text_end=special.eos_token_id,
            image_start=special.start_of_image,
            image_end=special.end_of_image,
        )
        self.latent_channels = config.latent_channels
        self.pixels_per_token = config.pixels_per_token
        self.language_model = LanguageModel(config.llm)
        self.vit_model = VisionTransformer(config.vit)
        self.connector = Connector(config.vit.hidden_size, hidden)
        self.vae2llm = nn.Linear(self.latent_channels, hidden)
        self.llm2vae = nn.Linear(hidden, self.latent_channels)
        self.time_embedder = TimeEmbedder(hidden, config.time_embed_frequency_dim)
        self.latent_pos_embed = PositionTable(config.max_latent_size, hidden)
        self.vit_pos_embed = PositionTable(config.vit_max_num_patch_per_side, hidden)
        self.set_autoencoder(Autoencoder(config.autoencoder))

    # -- the autoencoder lies outside the module tree, so that names stay those of the checkpoint

    @property
    def autoencoder(self) -> Autoencoder:
        """The FLUX-type autoencoder; frozen unless the caller trains it by itself."""
        return self.__dict__["_autoencoder"]

    def set_autoencoder(self, autoencoder: Autoencoder) -> None:
        """Use ``autoencoder``, frozen and in evaluation mode."""
        self.__dict__["_autoencoder"] = autoencoder.eval().requires_grad_(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bagel:
        super()._apply(fn, recurse)
        device = self.device
        own = next(self.autoencoder.parameters()).device
        if own != device and "meta" not in (own.type, device.type):
            self.autoencoder.to(device)
        return self

    # -- properties

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.llm2vae.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The decoder's weight type; heads may be of another."""
        return self.language_model.model.embed_tokens.weight.dtype

    def set_recompute(self, layers: int) -> None:
        """Trade time for memory in training: see :attr:`Decoder.recompute`."""
        self.language_model.model.recompute = layers

    def set_attention(self, kernel: AttentionKernel) -> None:
        """Compute attention with ``kernel``, in decoder and vision transformer."""
        self.language_model.model.kernel = kernel
        self.vit_model.set_attention(kernel)

    def attention_trial(self, shape: AttentionShape) -> tuple[str, Callable[[], Tensor]]:
        """See the protocol; of the decoder."""
        kernel = self.language_model.model.kernel
        inputs = random_inputs(self.config.llm, shape, dtype=self.dtype, device=self.device)
        return chosen(*inputs, kernel), partial(attend, *inputs, kernel)

    # -- contexts

    def empty_context(self, batch: int) -> Context:
        """A context of ``batch`` sequences that have read nothing (T = 0)."""
        llm = self.config.llm
        none = torch.zeros(
            batch, 0, llm.num_key_value_heads, llm.head_dim, device=self.device, dtype=self.dtype
        )
        return Context(
            keys=(none,) * llm.num_hidden_layers,
            values=(none,) * llm.num_hidden_layers,
            mask=torch.zeros(batch, 0, dtype=torch.bool, device=self.device),
            position=torch.zeros(batch, dtype=torch.int64, device=self.device),
        )

    # -- reading

    def read_text(
        self, context: Context, token_ids: Tensor, lengths: Tensor
    ) -> tuple[Context, Tensor]:
        """Read ``token_ids`` [B, L] causally; see the protocol."""
        batch, length = token_ids.shape
        device = token_ids.device
        step = torch.arange(length, device=device)
        own = (step[None, :] <= step[:, None]).expand(batch, length, length)
        cached = context.mask[:, None, :].expand(batch, length, context.length)
        decoder = self.language_model.model
        block = decoder(
            decoder.embed_tokens(token_ids),
            None,
            context.position[:, None] + step,
            bias_from(torch.cat([cached, own], dim=2)),
            cached_layers(context),
        )
        real = step[None, :] < lengths[:, None]
        return grown(context, block, real, lengths), block.und

    def token_reader(self, batch: int, room: int) -> BagelTokens:
        """Buffers for tokens one after another; see the protocol."""
        return BagelTokens(self, batch, room)

    def read_latents(self, context: Context, latents: Tensor, grid: tuple[int, int]) -> Context:
        """Read a clean picture given as latent tokens [B, N, C]; time 0 is embedded as well."""
        t = torch.zeros(latents.shape[0], device=latents.device)
        block = self._image(context, self.latent_inputs(latents, t, grid), NONE)
        return self._read_image(context, block)

    def read_pixels(self, context: Context, pixels: Tensor) -> Context:
        """Read a picture [B, 3, H, W] in [-1, 1] through the vision transformer."""
        inputs = torch.cat([self.markers(pixels.shape[0]), self.vision_inputs(pixels)], dim=1)
        return self._read_image(context, self._vision(context, inputs, NONE))

    def _vision(self, context: Context, inputs: Tensor, outputs: frozenset[str]) -> Decoded:
        return self.language_model.model(
            inputs,
            None,
            context.position[:, None],
            self._full_bias(context, inputs.shape[1]),
            cached_layers(context),
            outputs,
        )

    def _image(self, context: Context, latents: Tensor, outputs: frozenset[str]) -> Decoded:
        return self.language_model.model(
            self.markers(latents.shape[0]),
            latents,
            context.position[:, None],
            self._full_bias(context, latents.shape[1] + 2),
            cached_layers(context),
            outputs,
        )

    @staticmethod
    def _full_bias(context: Context, block: int) -> Tensor | None:
        """Everything cached and the whole block may be seen: [B, 1, T + S], or None at T = 0."""
        if context.length == 0:
            return None
        return functional.pad(bias_from(context.mask), (0, block))[:, None]

    def _read_image(self, context: Context, block: Decoded) -> Context:
        shape = block.keys[0].shape[:2]
        mask = torch.ones(shape, dtype=torch.bool, device=context.mask.device)
        return grown(context, block, mask, 1)

    # -- inputs of the decoder

    def markers(self, batch: int) -> Tensor:
        """Embedded start and end of an image [B, 2, D]: the two first tokens of an image block."""
        ids = torch.tensor([self.special.image_start, self.special.image_end], device=self.device)
        return self.language_model.model.embed_tokens(ids).expand(batch, -1, -1)

    def latent_inputs(self, latents: Tensor, t: Tensor, grid: tuple[int, int]) -> Tensor:
        """Decoder inputs [B, N, D] of latent tokens [B, N, C] at time ``t`` [B]."""
        tokens = self.vae2llm(latents.to(self.vae2llm.weight.dtype))
        return tokens + self.time_embedder(t)[:, None] + self.latent_pos_embed(grid)

    def vision_inputs(self, pixels: Tensor) -> Tensor:
        """Decoder inputs [B, N, D] of a picture [B, 3, H, W], without the markers."""
        grid = self.vision_grid(pixels)
        return self.connector(self.vision_features(pixels)) + self.vit_pos_embed(grid)

    def vision_features(self, pixels: Tensor) -> Tensor:
        """Vision transformer's output [B, N, E] of a picture [B, 3, H, W]."""
        side = self.config.vit_max_num_patch_per_side
        ids = grid_ids(*self.vision_grid(pixels), side, pixels.device)
        return self.vit_model(patchify(pixels, self.config.vit.patch_size), ids)

    def vision_pixels(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Pictures [B, H, W, 3] as bytes to [B, 3, h, w] in [-1, 1], whole patches of the ViT."""
        most = self.config.vit_max_num_patch_per_side
        return whole_patches(pixels, self.config.vit.patch_size, most).to(self.device)

    def vision_grid(self, pixels: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of a picture [..., H, W]."""
        patch = self.config.vit.patch_size
        return pixels.shape[-2] // patch, pixels.shape[-1] // patch

    # -- heads, in float32 whatever the rest is

    def text_logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits [..., V] in float32 of hidden states [..., D]."""
        return wide_linear(hidden, self.text_head())

    def text_head(self) -> Tensor:
        """The head's weight [V, D]."""
        return self.language_model.lm_head.weight

    def velocity_head(self, hidden: Tensor) -> Tensor:
        """Velocity [..., C] in float32 of latent tokens' hidden states [..., D]."""
        return wide_linear(hidden, self.llm2vae.weight, self.llm2vae.bias)

    # -- drawing

    def velocity(
        self, context: Context, latents: Tensor, t: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """Velocity (noise - data) [B, N, C] in float32 of noisy latents at time ``t`` [B]."""
        block = self._image(context, self.latent_inputs(latents, t, grid), GEN)
        assert block.gen is not None
        return self.velocity_head(block.gen)

    def encode_pixels(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latent tokens [B, N, C] of pictures [B, 3, H, W] in [-1, 1].

        The posterior's mean, or with ``noise`` [B, Z, H/8, W/8] a sample, as the release does.
        """
        return self.latents_to_tokens(self.autoencoder.encode(pixels, noise))

    def decode_latents(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] (not clamped) of latent tokens [B, N, C]."""
        return self.autoencoder.decode(self.tokens_to_latents(latents, grid))

    def latents_to_tokens(self, latents: Tensor) -> Tensor:
        """[B, Z, h, w] to tokens [B, N, C]."""
        return patchify(latents, self.config.latent_patch_size)

    def tokens_to_latents(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens [B, N, C] to [B, Z, h, w]."""
        return unpatchify(tokens, grid, self.config.latent_patch_size)

    # -- for checks: blocks with their outputs

    def image_block(
        self, context: Context, latents: Tensor, t: Tensor, grid: tuple[int, int]
    ) -> tuple[Context, Tensor]:
        """As :meth:`read_latents` at any time, with hidden states [B, 2 + N, D], markers first."""
        block = self._image(context, self.latent_inputs(latents, t, grid), BOTH)
        assert block.und is not None
        assert block.gen is not None
        return self._read_image(context, block), torch.cat([block.und, block.gen], dim=1)

    def vision_block(self, context: Context, pixels: Tensor) -> tuple[Context, Tensor]:
        """As :meth:`read_pixels`, with hidden states [B, 2 + N, D], markers first."""
        inputs = torch.cat([self.markers(pixels.shape[0]), self.vision_inputs(pixels)], dim=1)
        block = self._vision(context, inputs, BOTH)
        assert block.und is not None
        return self._read_image(context, block), block.und

    def extra_repr(self) -> str:
        """The shape in one line."""
        llm = self.config.llm
        return (
            f"layers={llm.num_hidden_layers}, hidden={llm.hidden_size}, vocabulary={llm.vocab_size}"
        )
