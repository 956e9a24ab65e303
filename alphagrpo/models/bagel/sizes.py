"""How many weights a BAGEL has and what a token costs, from its config alone. Free of torch.

Tests hold every number of weights to the model that is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from alphagrpo.models.bagel.config import (
    AutoencoderConfig,
    BagelConfig,
    LlmConfig,
    SpecialIds,
    VitConfig,
)
from alphagrpo.models.bagel.resize import ResizeRule
from alphagrpo.models.bagel.space import AS_IT_IS, Practice, Space

DECODED_BYTES_PER_PIXEL = 3930
"""Of the autoencoder's decoder, in float32: 14.4 GB for 14 pictures of 512 x 512, on an H200."""


@dataclass(frozen=True, slots=True)
class BagelShape:
    """What checks and arithmetic ask of a config: weights, values, tokens and operations."""

    config: BagelConfig
    practice: Practice = AS_IT_IS

    @classmethod
    def released(cls) -> BagelShape:
        """BAGEL-7B-MoT."""
        llm = LlmConfig(
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            vocab_size=152064,
        )
        vit = VitConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            patch_size=14,
            image_size=980,
        )
        special = SpecialIds(
            bos_token_id=151644, eos_token_id=151645, start_of_image=151652, end_of_image=151653
        )
        return cls(BagelConfig(llm=llm, vit=vit, special=special))

    @property
    def pixels_per_token(self) -> int:
        """Side of the square of pixels one image token covers."""
        return self.config.pixels_per_token

    @property
    def max_tokens_per_side(self) -> int:
        """Rows and columns of image tokens a picture may have."""
        return self.config.max_latent_size

    @property
    def latent_channels(self) -> int:
        """Values per image token."""
        return self.config.latent_channels

    @property
    def kv_values_per_token(self) -> int:
        """Values cached of one token: keys and values of every layer."""
        return self.config.llm.num_hidden_layers * 2 * _keys(self.config.llm)

    def weights(self) -> dict[str, int]:
        """Numbers of weights by part, fixed position tables included."""
        config, llm = self.config, self.config.llm
        hidden, channels = llm.hidden_size, config.latent_channels
        expert = expert_weights(llm)
        connector = _linear(config.vit.hidden_size, hidden) + _linear(hidden, hidden)
        latents = _linear(channels, hidden) + _linear(hidden, channels)
        times = _linear(config.time_embed_frequency_dim, hidden) + _linear(hidden, hidden)
        return {
            "understanding": expert,
            "generation": expert,
            "embeddings": 2 * llm.vocab_size * hidden,
            "vision": vision_weights(config.vit)
            + connector
            + config.vit_max_num_patch_per_side**2 * hidden,
            "autoencoder": autoencoder_weights(config.autoencoder),
            "other": latents + times + config.max_latent_size**2 * hidden,
        }

    @property
    def float32_weights(self) -> int:
        """Of :meth:`weights`, those that are in float32 whatever the type of the rest."""
        config, hidden = self.config, self.config.llm.hidden_size
        tables = config.max_latent_size**2 + config.vit_max_num_patch_per_side**2
        wide = tables * hidden + _linear(hidden, config.latent_channels)
        head = config.llm.vocab_size * hidden if self.practice.wide_head else 0
        return wide + head + autoencoder_weights(config.autoencoder)

    def adapter_weights(self, rank: int) -> int:
        """Adapter weights on q, k, v, o, gate, up, down of both experts in every layer.

        A layer from n to m values takes rank * (n + m).
        """
        llm = self.config.llm
        hidden, inner = llm.hidden_size, llm.intermediate_size
        sides = 2 * (hidden + _queries(llm)) + 2 * (hidden + _keys(llm)) + 3 * (hidden + inner)
        return rank * sides * llm.num_hidden_layers * 2

    def forward_values(self, sequences: int, tokens: int, past: int) -> int:
        """Values at the peak of a forward without gradient; see :class:`Space`."""
        return Space(self.config.llm, self.practice, sequences, tokens, past).forward()

    def replay_values(self, sequences: int, tokens: int, past: int, *, recomputed: int) -> int:
        """Values at the peak of a forward and its backward, of the first ``recomputed`` layers
        with recomputation.
        """
        return Space(self.config.llm, self.practice, sequences, tokens, past).replay(recomputed)

    def decoded_bytes(self, pictures: int, height: int, width: int) -> int:
        """Bytes at the peak of decoding so many pictures at once."""
        return pictures * height * width * DECODED_BYTES_PER_PIXEL

    @property
    def vocabulary(self) -> int:
        """Ids that a token is sampled from."""
        return self.config.llm.vocab_size

    def picture_tokens(self, height: int, width: int) -> int:
        """Tokens of a picture that is read: its latents and its patches, each with two markers."""
        side, patch = self.pixels_per_token, self.config.vit.patch_size
        most = self.config.vit_max_num_patch_per_side * patch
        seen = ResizeRule(max_size=most, min_size=1, stride=patch).size(width, height)
        patches = (seen[0] // patch) * (seen[1] // patch)
        return (height // side) * (width // side) + 2 + patches + 2

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""
        return self.config.llm.num_hidden_layers

    def forward_flops(self, tokens: int, keys: float) -> float:
        """Operations of one forward: each token meets one expert's weights, and ``keys`` keys.

        Two per weight; per layer and key two per value of a query for the scores and as many for
        the sum. Norms, rotations and activations are left out.
        """
        llm = self.config.llm
        attention = 4 * llm.num_hidden_layers * _queries(llm) * keys
        return tokens * (2.0 * expert_weights(llm) + attention)


def expert_weights(llm: LlmConfig) -> int:
    """One expert: its half of every layer, and its final norm."""
    hidden, queries, keys = llm.hidden_size, _queries(llm), _keys(llm)
    attention = _linear(hidden, queries) + 2 * _linear(hidden, keys) + queries * hidden
    norms = 2 * llm.head_dim + 2 * hidden
    layer = attention + norms + 3 * hidden * llm.intermediate_size
    return llm.num_hidden_layers * layer + hidden


def vision_weights(vit: VitConfig) -> int:
    """The vision transformer, without connector and table of the decoder."""
    width, inner = vit.hidden_size, vit.intermediate_size
    patches = (vit.image_size // vit.patch_size) ** 2
    inputs = _linear(vit.patch_size**2 * vit.num_channels, width) + patches * width
    mlp = _linear(width, inner) + _linear(inner, width)
    layer = 2 * _norm(width) + 4 * _linear(width, width) + mlp
    return inputs + vit.layers_built * layer + _norm(width)


def autoencoder_weights(config: AutoencoderConfig) -> int:
    """Encoder and decoder of the FLUX-type autoencoder."""
    widths = [config.ch * multiple for multiple in config.ch_mult]
    first, last, latents = widths[0], widths[-1], config.z_channels
    middle = 2 * _resnet(last, last) + _norm(last) + 4 * _linear(last, last)
    encoder = _conv(config.in_channels, first) + _levels(widths, config.num_res_blocks)
    encoder += middle + _norm(last) + _conv(last, 2 * latents)
    decoder = _conv(latents, last) + middle + _levels(widths[::-1], config.num_res_blocks + 1)
    return encoder + decoder + _norm(first) + _conv(first, config.out_ch)


def _levels(widths: list[int], blocks: int) -> int:
    """Levels of residual blocks, each but the last with a convolution that changes the size."""
    resnets = sum(
        _resnet(before, width) + (blocks - 1) * _resnet(width, width)
        for before, width in pairwise([widths[0], *widths])
    )
    return resnets + sum(_conv(width, width) for width in widths[:-1])


def _resnet(inputs: int, outputs: int) -> int:
    shortcut = _linear(inputs, outputs) if inputs != outputs else 0
    convolutions = _conv(inputs, outputs) + _conv(outputs, outputs)
    return _norm(inputs) + _norm(outputs) + convolutions + shortcut


def _conv(inputs: int, outputs: int) -> int:
    return 9 * inputs * outputs + outputs


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _norm(width: int) -> int:
    return 2 * width


def _queries(llm: LlmConfig) -> int:
    return llm.num_attention_heads * llm.head_dim


def _keys(llm: LlmConfig) -> int:
    return llm.num_key_value_heads * llm.head_dim
