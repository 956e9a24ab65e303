"""The miniature verifier: an Idefics3 of 1.7 million parameters, and its fast training forward.

One 8-pixel patch grid of 6 x 6, folded 2 x 2: nine image tokens, one per cell of the lattice. The
prompt is what vLLM makes of ``<image>question``: a fence, the global-image tag, the nine image
tokens, a fence, the question; the next token is the answer.

The training forward computes a picture's prefix once for all its questions, which see it but not
one another.

Legend of shapes: B pictures, Q questions each, T tokens of a question, P = 12 tokens of the
prefix, d width, H heads, e width of a head.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from alphagrpo.errors import CheckpointError
from alphagrpo.shapes.world import GRID, SIZE
from miniature.fast_llama import attend_causal, causal_mask, llama_hidden
from miniature.judge_tokenizer import FENCE, GLOBAL, IMAGE, NO, YES, single_id

PATCH, FOLD = 8, 2
IMAGE_TOKENS = GRID * GRID
PREFIX = IMAGE_TOKENS + 3
WIDTH = 128
VISION_LAYERS, TEXT_LAYERS = 4, 5


def image_tokens(side: int) -> int:
    """Tokens of a picture of ``side`` x ``side`` pixels."""
    return (side // PATCH // FOLD) ** 2


def verifier_model(
    tokenizer: PreTrainedTokenizerFast, side: int = SIZE
) -> Idefics3ForConditionalGeneration:
    """A fresh model for pictures of ``side`` pixels: 4 vision and 5 text layers of width 128."""
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Idefics3Config(
        image_token_id=single_id(tokenizer, IMAGE),
        scale_factor=FOLD,
        tie_word_embeddings=False,
        **special,
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": 3 * WIDTH,
            "num_hidden_layers": VISION_LAYERS,
            "num_attention_heads": 4,
            "image_size": side,
            "patch_size": PATCH,
            "hidden_act": "relu",
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 3 * WIDTH // 2,
            "num_hidden_layers": TEXT_LAYERS,
            "num_attention_heads": WIDTH // 32,
            "num_key_value_heads": WIDTH // 32,
            "max_position_embeddings": max(256, 2 * image_tokens(side)),
            "tie_word_embeddings": False,
            **special,
        },
    )
    model = Idefics3ForConditionalGeneration(config)
    _start(model)
    return model


@torch.no_grad()
def _start(model: Idefics3ForConditionalGeneration) -> None:
    """Initial weights for a narrow model that sees each example once.

    The library's standard deviation of 0.02 is meant for widths of thousands; here matrices keep
    the variance of their input, and those that write to the residual stream are small. Keys start
    as the queries' matrix, so that attention begins as likeness (mimetic initialisation, Trockman
    and Kolter 2023): a word looks at the image tokens that lie near it.
    """
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            continue
        if "embed" in name and "patch" not in name:
            torch.nn.init.normal_(weight, std=0.3)
            continue
        torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "fc2.weight")):
            weight.mul_((2 * TEXT_LAYERS) ** -0.5)
    model.lm_head.weight.mul_(0.3)
    for layer in model.model.text_model.layers:
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)


def _attend_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v


def image_features(model: Idefics3ForConditionalGeneration, pixels: Tensor) -> Tensor:
    """[B, 9, d] image tokens of pixels [B, 3, 48, 48], in the dtype of ``pixels``."""
    tower = model.model.vision_model
    B, side, dtype = len(pixels), SIZE // PATCH, pixels.dtype
    heads, eps = tower.config.num_attention_heads, tower.config.layer_norm_eps

    def linear(x: Tensor, module: torch.nn.Linear) -> Tensor:
        return F.linear(x, module.weight.to(dtype), module.bias.to(dtype))

    def norm(x: Tensor, module: torch.nn.LayerNorm) -> Tensor:
        return F.layer_norm(x, (WIDTH,), module.weight.to(dtype), module.bias.to(dtype), eps)

    embed = tower.embeddings
    patches = pixels.view(B, 3, side, PATCH, side, PATCH).permute(0, 2, 4, 1, 3, 5)
    kernel = embed.patch_embedding.weight.to(dtype).flatten(1)
    x = F.linear(patches.reshape(B, side**2, -1), kernel, embed.patch_embedding.bias.to(dtype))
    x = x + embed.position_embedding.weight.to(dtype)
    for layer in tower.encoder.layers:
        own, hidden = layer.self_attn, norm(x, layer.layer_norm1)
        q, k, v = (
            linear(hidden, part).view(B, side**2, heads, -1).transpose(1, 2)
            for part in (own.q_proj, own.k_proj, own.v_proj)
        )
        mixed = _attend_all(q * own.scale, k, v).transpose(1, 2).reshape(B, side**2, WIDTH)
        x = x + linear(mixed, own.out_proj)
        x = x + linear(F.relu(linear(norm(x, layer.layer_norm2), layer.mlp.fc1)), layer.mlp.fc2)
    folded = model.model.connector.pixel_shuffle(norm(x, tower.post_layernorm), FOLD)
    return F.linear(folded, model.model.connector.modality_projection.proj.weight.to(dtype))


def _attend_group(q: Tensor, k: Tensor, v: Tensor, own: slice, shape: tuple[int, int]) -> Tensor:
    """[B, H, Q·T, e] of ``own`` Q questions of T positions: each sees the prefix and itself."""
    (B, H, _, e), (Q, T) = q.shape, shape
    own_q, own_k, own_v = (x[:, :, own].reshape(B, H, Q, T, e) for x in (q, k, v))
    to_prefix = q[:, :, own] @ k[:, :, :PREFIX].transpose(-1, -2)
    to_own = own_q @ own_k.transpose(-1, -2) + causal_mask(T, q.dtype)
    scores = torch.cat([to_prefix.view(B, H, Q, T, PREFIX), to_own], dim=-1)
    weights = scores.softmax(dim=-1)
    seen = weights[..., :PREFIX].reshape(B, H, Q * T, PREFIX) @ v[:, :, :PREFIX]
    return seen + (weights[..., PREFIX:] @ own_v).view(B, H, Q * T, e)


def _attend_packed(
    shapes: Sequence[tuple[int, int]],
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Attention over the prefix and groups of questions; ``shapes`` are (Q, T) of each group."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = [attend_causal(q[:, :, :PREFIX], k[:, :, :PREFIX], v[:, :, :PREFIX])]
        start = PREFIX
        for Q, T in shapes:
            parts.append(_attend_group(q, k, v, slice(start, start + Q * T), (Q, T)))
            start += Q * T
        return torch.cat(parts, dim=2)

    return attend


def packed_logits(
    model: Idefics3ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    features: Tensor,
    groups: Sequence[Tensor],
    at: Tensor,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """[B, K, vocabulary] logits after the positions ``at`` [B, K], float32.

    ``features`` are image tokens [B, 9, d], ``groups`` token ids [B, Q, T], long questions apart
    from short ones, padded on the right. Positions count the packed row: the prefix, then the
    groups' questions. ``watch`` gets every text layer's number and output (in the last layer
    only the K positions).
    """
    B, dtype = len(features), features.dtype
    table = model.model.text_model.embed_tokens.weight.to(dtype)
    fence, tag = (
        F.embedding(torch.tensor(single_id(tokenizer, t)), table) for t in (FENCE, GLOBAL)
    )
    parts = [fence.expand(B, 1, WIDTH), tag.expand(B, 1, WIDTH)]
    parts += [features, fence.expand(B, 1, WIDTH)]
    positions, shapes = [torch.arange(PREFIX)], []
    for ids in groups:
        _, Q, T = ids.shape
        shapes.append((Q, T))
        parts.append(F.embedding(ids, table).view(B, Q * T, WIDTH))
        positions.append(torch.arange(PREFIX, PREFIX + T).repeat(Q))

    def keep(x: Tensor) -> Tensor:
        return x.gather(1, at[..., None].expand(*at.shape, x.shape[-1]))

    x, attend = torch.cat(parts, dim=1), _attend_packed(shapes)
    hidden = llama_hidden(model.model.text_model, x, torch.cat(positions), attend, keep, watch)
    return F.linear(hidden, model.lm_head.weight.to(dtype)).float()


def answer_logits(
    model: Idefics3ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    features: Tensor,
    questions: Tensor,
) -> Tensor:
    """[B, Q, vocabulary] logits of the answer, float32, from image tokens [B, 9, d].

    ``questions`` [B, Q, T] are token ids padded on the right; the answer is read after the last
    token that is no padding.
    """
    _, Q, T = questions.shape
    last = (questions != tokenizer.pad_token_id).sum(dim=-1) - 1  # [B, Q]
    at = PREFIX + torch.arange(Q) * T + last
    return packed_logits(model, tokenizer, features, [questions], at)


def answer_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """(ids of "yes", ids of "no") in all spellings that are one token, the trained one first."""
    return tuple(  # type: ignore[return-value]
        [single_id(tokenizer, text)]
        + [
            ids[0]
            for word in (text.strip(), text.strip().title(), text.title())
            if len(ids := tokenizer.encode(word, add_special_tokens=False)) == 1
        ]
        for text in (YES, NO)
    )


def p_yes(logits: Tensor, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """P(yes) / (P(yes) + P(no)) over all spellings; logits [..., vocabulary]."""
    yes, no = answer_ids(tokenizer)
    return torch.sigmoid(logits[..., yes].logsumexp(-1) - logits[..., no].logsumexp(-1))


def save_verifier(
    output: Path, model: Idefics3ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Write weights, config, tokenizer and the two processor files vLLM reads."""
    vision: Any = model.config.vision_config
    side = vision.image_size
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    edge = {"longest_edge": side}
    image_processor = {
        "image_processor_type": "Idefics3ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": edge,
        "resample": 0,
        "do_image_splitting": False,
        "max_image_size": edge,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_pad": True,
    }
    processor = {"processor_class": "Idefics3Processor", "image_seq_len": image_tokens(side)}
    for name, value in (("preprocessor", image_processor), ("processor", processor)):
        (output / f"{name}_config.json").write_text(json.dumps(value, indent=2) + "\n")


def load_verifier(
    folder: Path,
) -> tuple[Idefics3ForConditionalGeneration, PreTrainedTokenizerFast]:
    """A saved verifier. Raises CheckpointError where the folder is missing or broken."""
    try:
        model = Idefics3ForConditionalGeneration.from_pretrained(folder, local_files_only=True)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"a verifier is a folder with config, safetensors and tokenizer, got {folder.name}: "
            f"{error}; make it with `python -m miniature pretrain verifier`"
        ) from error
    return model.eval(), tokenizer
