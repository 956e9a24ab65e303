"""BAGEL against its description written out: one token, one head and one expert at a time.

Every weight is looked up by its name in the checkpoint, so that a norm, a projection or a table of
the other expert shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alphagrpo.models.bagel.autoencoder import official_name
from alphagrpo.models.bagel.model import Bagel

GEN = "_moe_gen"


@dataclass(frozen=True)
class Token:
    """An input of the decoder."""

    vector: Tensor
    position: int
    expert: str = ""
    sees_to: int = 0
    """Number of leading tokens of the row that it attends to, its own block included."""


class Description:
    """The decoder as the paper and the released configs describe it, slowly."""

    def __init__(self, model: Bagel) -> None:
        self.weights = model.state_dict()
        self.llm = model.config.llm

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = self.weights[f"{name}.weight"] @ x
        return y + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else y

    def norm(self, name: str, x: Tensor) -> Tensor:
        scale = (x.square().mean(-1, keepdim=True) + self.llm.rms_norm_eps).rsqrt()
        return x * scale * self.weights[f"{name}.weight"]

    def rotated(self, x: Tensor, position: int) -> Tensor:
        half = x.shape[-1] // 2
        turned = x.clone()
        for j in range(half):
            angle = position * self.llm.rope_theta ** (-j / half)
            a, b = x[..., j], x[..., j + half]
            turned[..., j] = a * math.cos(angle) - b * math.sin(angle)
            turned[..., j + half] = b * math.cos(angle) + a * math.sin(angle)
        return turned

    def heads(self, name: str, expert: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}_proj{expert}", x).view(-1, self.llm.head_dim)

    def layer(self, i: int, tokens: list[Token], states: list[Tensor]) -> list[Tensor]:
        at = f"language_model.model.layers.{i}"
        queries, keys, values = [], [], []
        for token, x in zip(tokens, states, strict=True):
            e, attn = token.expert, f"{at}.self_attn"
            normed = self.norm(f"{at}.input_layernorm{e}", x)
            q = self.norm(f"{attn}.q_norm{e}", self.heads(f"{attn}.q", e, normed))
            k = self.norm(f"{attn}.k_norm{e}", self.heads(f"{attn}.k", e, normed))
            queries.append(self.rotated(q, token.position))
            keys.append(self.rotated(k, token.position))
            values.append(self.heads(f"{attn}.v", e, normed))
        return [
            self.outputs(at, token, states[j], queries[j], keys, values)
            for j, token in enumerate(tokens)
        ]

    def outputs(
        self,
        at: str,
        token: Token,
        x: Tensor,
        query: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> Tensor:
        e, group = token.expert, self.llm.num_attention_heads // self.llm.num_key_value_heads
        mixed = []
        for head, q in enumerate(query):
            k = torch.stack([key[head // group] for key in keys[: token.sees_to]])
            v = torch.stack([value[head // group] for value in values[: token.sees_to]])
            mixed.append((k @ q / math.sqrt(self.llm.head_dim)).softmax(0) @ v)
        x = x + self.linear(f"{at}.self_attn.o_proj{e}", torch.cat(mixed))
        inner = self.norm(f"{at}.post_attention_layernorm{e}", x)
        gate = self.linear(f"{at}.mlp{e}.gate_proj", inner)
        up = self.linear(f"{at}.mlp{e}.up_proj", inner)
        return x + self.linear(f"{at}.mlp{e}.down_proj", gate * gate.sigmoid() * up)

    def __call__(self, tokens: list[Token]) -> Tensor:
        """Hidden states [S, D] after the final norms."""
        states = [token.vector for token in tokens]
        for i in range(self.llm.num_hidden_layers):
            states = self.layer(i, tokens, states)
        ends = zip(tokens, states, strict=True)
        return torch.stack([self.norm(f"language_model.model.norm{t.expert}", x) for t, x in ends])


def embedded(model: Bagel, token_id: int) -> Tensor:
    return model.state_dict()["language_model.model.embed_tokens.weight"][token_id]


def text_tokens(model: Bagel, ids: list[int]) -> list[Token]:
    return [Token(embedded(model, t), i, sees_to=i + 1) for i, t in enumerate(ids)]


def waves(t: float, count: int) -> Tensor:
    half = count // 2
    angles = [t * 10000.0 ** (-j / half) for j in range(half)]
    return torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])


def latent_vector(model: Bagel, latent: Tensor, t: float, row: int, column: int) -> Tensor:
    """What the generation expert is given of one latent token."""
    weights, describe = model.state_dict(), Description(model)
    inner = describe.linear("time_embedder.mlp.0", waves(t, model.config.time_embed_frequency_dim))
    time = describe.linear("time_embedder.mlp.2", inner * inner.sigmoid())
    place = weights["latent_pos_embed.pos_embed"][row * model.config.max_latent_size + column]
    return describe.linear("vae2llm", latent) + time + place


def image_tokens(model: Bagel, latents: Tensor, t: float, after: int, position: int) -> list[Token]:
    """Start marker, end marker and latents [N, C] of a picture of 2 x 3 tokens."""
    sees = after + 2 + len(latents)
    tokens = [Token(embedded(model, i), position, sees_to=sees) for i in (3, 4)]
    for i, latent in enumerate(latents):
        vector = latent_vector(model, latent, t, *divmod(i, 3))
        tokens.append(Token(vector, position, GEN, sees))
    return tokens


def latents_of(model: Bagel, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, model.latent_channels, generator=generator)


@torch.no_grad()
def test_text_is_what_the_description_computes(model: Bagel) -> None:
    ids = [1, 7, 30, 8, 2]
    _, hidden = model.read_text(model.empty_context(1), torch.tensor([ids]), torch.tensor([5]))
    expected = Description(model)(text_tokens(model, ids))
    torch.testing.assert_close(hidden[0], expected, atol=2e-5, rtol=1e-4)
    logits = expected @ model.state_dict()["language_model.lm_head.weight"].T
    torch.testing.assert_close(model.text_logits(hidden)[0], logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_velocity_is_what_the_description_computes(model: Bagel) -> None:
    ids, latents, t = [1, 7, 30, 8, 2], latents_of(model), 0.7
    context, _ = model.read_text(model.empty_context(1), torch.tensor([ids]), torch.tensor([5]))
    tokens = [*text_tokens(model, ids), *image_tokens(model, latents, t, 5, 5)]
    describe = Description(model)
    hidden = describe(tokens)
    expected = torch.stack([describe.linear("llm2vae", x) for x in hidden[7:]])
    velocity = model.velocity(context, latents[None], torch.tensor([t]), (2, 3))
    torch.testing.assert_close(velocity[0], expected, atol=5e-5, rtol=1e-4)
    _, block = model.image_block(context, latents[None], torch.tensor([t]), (2, 3))
    torch.testing.assert_close(block[0], hidden[5:], atol=5e-5, rtol=1e-4)


@torch.no_grad()
def test_a_picture_is_read_as_clean_and_the_text_after_it_sees_it(model: Bagel) -> None:
    latents, ids = latents_of(model, 1), [1, 9, 2]
    context = model.read_latents(model.empty_context(1), latents[None], (2, 3))
    _, hidden = model.read_text(context, torch.tensor([ids]), torch.tensor([3]))
    text = [Token(embedded(model, x), 1 + i, sees_to=9 + i) for i, x in enumerate(ids)]
    expected = Description(model)([*image_tokens(model, latents, 0.0, 0, 0), *text])
    torch.testing.assert_close(hidden[0], expected[8:], atol=2e-5, rtol=1e-4)


def vision_by_hand(model: Bagel, pixels: Tensor) -> Tensor:
    """The vision transformer's features [N, E] of one picture [3, H, W], layer by layer."""
    vit, weights = model.config.vit, model.state_dict()
    name = "vit_model.vision_model"

    def linear(at: str, x: Tensor) -> Tensor:
        return x @ weights[f"{at}.weight"].T + weights[f"{at}.bias"]

    def norm(at: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + vit.layer_norm_eps).rsqrt()
        return centred * scale * weights[f"{at}.weight"] + weights[f"{at}.bias"]

    side, patch = model.config.vit_max_num_patch_per_side, vit.patch_size
    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    table, states = weights[f"{name}.embeddings.position_embedding.weight"], []
    for row in range(rows):
        for column in range(columns):
            cut = pixels[:, row * patch :, column * patch :][:, :patch, :patch]
            x = linear(f"{name}.embeddings.patch_embedding", cut.permute(1, 2, 0).flatten())
            states.append(x + table[row * side + column])
    x = torch.stack(states)
    for i in range(vit.num_hidden_layers - 1):
        at = f"{name}.encoder.layers.{i}"
        normed, heads = norm(f"{at}.layer_norm1", x), []
        q, k, v = (
            linear(f"{at}.self_attn.{which}_proj", normed).chunk(vit.num_attention_heads, dim=-1)
            for which in "qkv"
        )
        for head in range(vit.num_attention_heads):
            scores = q[head] @ k[head].T / math.sqrt(q[head].shape[-1])
            heads.append(scores.softmax(-1) @ v[head])
        x = x + linear(f"{at}.self_attn.out_proj", torch.cat(heads, dim=-1))
        inner = linear(f"{at}.mlp.fc1", norm(f"{at}.layer_norm2", x))
        x = x + linear(f"{at}.mlp.fc2", functional.gelu(inner, approximate="tanh"))
    return norm(f"{name}.post_layernorm", x)


@torch.no_grad()
def test_vision_is_what_the_description_computes(model: Bagel) -> None:
    weights = model.state_dict()
    for name in ("connector.fc1.bias", "vit_model.vision_model.encoder.layers.0.mlp.fc1.weight"):
        # Where the two forms of GELU differ by more than rounding.
        weights[name].mul_(4.0)
    generator = torch.Generator().manual_seed(2)
    pixels = torch.rand(3, 16, 24, generator=generator) * 2 - 1
    expected = vision_by_hand(model, pixels)
    features = model.vision_features(pixels[None])
    torch.testing.assert_close(features[0], expected, atol=2e-5, rtol=1e-5)
    inner = expected @ weights["connector.fc1.weight"].T + weights["connector.fc1.bias"]
    inner = functional.gelu(inner, approximate="tanh")
    inner = inner @ weights["connector.fc2.weight"].T + weights["connector.fc2.bias"]
    ids = [row * 6 + column for row in range(2) for column in range(3)]
    inputs = inner + weights["vit_pos_embed.pos_embed"][ids]
    torch.testing.assert_close(model.vision_inputs(pixels[None])[0], inputs, atol=2e-5, rtol=1e-5)
    context = model.read_pixels(model.empty_context(1), pixels[None])
    _, hidden = model.read_text(context, torch.tensor([[1, 2]]), torch.tensor([2]))
    tokens = [Token(embedded(model, i), 0, sees_to=8) for i in (3, 4)]
    tokens += [Token(x, 0, sees_to=8) for x in inputs]
    tokens += [Token(embedded(model, x), 1 + i, sees_to=9 + i) for i, x in enumerate((1, 2))]
    torch.testing.assert_close(hidden[0], Description(model)(tokens)[8:], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_bias_keeps_two_pictures_in_one_row_apart(model: Bagel) -> None:
    vit = model.vit_model
    patches = torch.randn(1, 5, 192, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([0, 1, 0, 1, 2])
    owner = torch.tensor([0, 0, 1, 1, 1])
    apart = owner[:, None] == owner[None, :]
    bias = torch.zeros(1, 5, 5).masked_fill(~apart, float("-inf"))
    together = vit(patches, ids, bias)
    alone = torch.cat([vit(patches[:, :2], ids[:2]), vit(patches[:, 2:], ids[2:])], dim=1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_latents_are_shifted_and_scaled_posteriors_and_come_back_as_pictures(model: Bagel) -> None:
    autoencoder = model.autoencoder
    generator = torch.Generator().manual_seed(4)
    pixels = torch.rand(1, 3, 16, 16, generator=generator) * 2 - 1
    noise = torch.randn(1, 4, 2, 2, generator=generator)
    mean, log_variance = autoencoder.kl.encoder(pixels).chunk(2, dim=1)
    assert log_variance.abs().max() > 0.1, "else a wrong deviation would not show"
    scaled = 0.3611 * (mean - 0.1159)
    torch.testing.assert_close(autoencoder.encode(pixels), scaled)
    sample = 0.3611 * (mean + log_variance.exp().sqrt() * noise - 0.1159)
    torch.testing.assert_close(autoencoder.encode(pixels, noise), sample)
    tokens = model.encode_pixels(pixels, noise)
    torch.testing.assert_close(model.tokens_to_latents(tokens, (1, 1)), sample)
    torch.testing.assert_close(autoencoder.decode(scaled), autoencoder.kl.decoder(mean))


@pytest.mark.parametrize(
    ("name", "official"),
    [
        ("encoder.conv_in.weight", "encoder.conv_in.weight"),
        ("encoder.mid_block.resnets.0.norm1.bias", "encoder.mid.block_1.norm1.bias"),
        ("decoder.mid_block.resnets.1.conv2.weight", "decoder.mid.block_2.conv2.weight"),
        ("encoder.mid_block.attentions.0.group_norm.bias", "encoder.mid.attn_1.norm.bias"),
        ("decoder.mid_block.attentions.0.to_v.weight", "decoder.mid.attn_1.v.weight"),
        ("decoder.mid_block.attentions.0.to_out.0.bias", "decoder.mid.attn_1.proj_out.bias"),
        ("encoder.down_blocks.2.resnets.1.conv_shortcut.weight",
         "encoder.down.2.block.1.nin_shortcut.weight"),
        ("decoder.up_blocks.0.resnets.2.conv1.bias", "decoder.up.3.block.2.conv1.bias"),
        ("decoder.up_blocks.1.upsamplers.0.conv.bias", "decoder.up.2.upsample.conv.bias"),
        ("encoder.conv_norm_out.weight", "encoder.norm_out.weight"),
    ],
)  # fmt: skip
def test_the_autoencoders_weights_have_the_released_names(name: str, official: str) -> None:
    assert official_name(name, levels=4) == official
