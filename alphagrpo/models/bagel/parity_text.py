"""Parity cases of reading: tables, text, vision pictures, latent pictures, the resize rule."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from alphagrpo.models.bagel.embeddings import grid_ids, patchify, rotary
from alphagrpo.models.bagel.golden import Golden, Produced, cache, release_order
from alphagrpo.models.bagel.resize import MAX_PIXELS, ResizeRule
from alphagrpo.models.bagel.sampling import greedy_text
from alphagrpo.models.unified import Context


@torch.no_grad()
def tables(golden: Golden) -> Produced:
    """c0: time embedding and rotary tables."""
    model = golden.model
    llm = model.config.llm
    cos, sin = rotary(golden["c0.rope_pos"], llm.head_dim, llm.rope_theta)
    return {
        "c0.t_sinusoid": model.time_embedder.sinusoid(golden["c0.t"]),
        "c0.t_embed": model.time_embedder(golden["c0.t"]),
        "c0.rope_cos": cos,
        "c0.rope_sin": sin,
    }


def _positions(context: Context, count: int, step: int) -> Tensor:
    """Rotary positions [count] that a block read after ``context`` takes."""
    return context.position[0] + torch.arange(count) * step


def _greedy(golden: Golden, prefix: str, context: Context) -> Produced:
    name = f"{prefix}.greedy_tokens"
    if name not in golden:
        return {}
    tokens, logits = greedy_text(golden.model, context, golden.shape(name)[0])
    return {name: tokens, f"{prefix}.greedy_logits": logits}


@torch.no_grad()
def text(golden: Golden) -> Produced:
    """c1: a prompt, greedy decoding, an early stop, a second prompt on the same cache."""
    model = golden.model
    framed = golden.framed(golden["c1.prompt_ids"])
    empty = model.empty_context(1)
    context, hidden = golden.read(empty, golden["c1.prompt_ids"])
    produced = {
        "c1.packed_text_ids": framed[0],
        "c1.position_ids": _positions(empty, framed.shape[1], 1),
        "c1.embed_hidden_in": model.language_model.model.embed_tokens(framed)[0],
        "c1.prefill_hidden": hidden,
        "c1.prefill_logits": model.text_logits(hidden),
        **cache("c1", context, 0),
        **_greedy(golden, "c1", context),
    }
    if "c1.stop_id" in golden:
        steps = golden.shape("c1.greedy_tokens")[0]
        stop = int(golden["c1.stop_id"])
        produced["c1.greedy_tokens_stop"] = greedy_text(model, context, steps, stop)[0]
    if "c1.second_prompt_ids" in golden:
        second = golden["c1.second_prompt_ids"]
        produced["c1.second_position_ids"] = _positions(context, second.numel() + 2, 1)
        produced["c1.second_logits"] = model.text_logits(golden.read(context, second)[1])
    return produced


@torch.no_grad()
def vision(golden: Golden) -> Produced:
    """c2: a picture through the vision transformer, then a prompt."""
    model, pixels = golden.model, golden["c2.pixels"][None]
    empty = model.empty_context(1)
    context, hidden = model.vision_block(empty, pixels)
    features = model.vision_features(pixels)
    inputs = torch.cat([model.markers(1), model.vision_inputs(pixels)], dim=1)[0]
    side = model.config.vit_max_num_patch_per_side
    after, prompt = golden.read(context, golden["c2.prompt_ids"])
    return {
        "c2.patches": patchify(pixels, model.config.vit.patch_size)[0],
        "c2.vit_position_ids": grid_ids(*model.vision_grid(pixels), side),
        "c2.vit_out": features[0],
        "c2.connector_out": model.connector(features)[0],
        "c2.llm_in": release_order(inputs),
        "c2.position_ids": _positions(empty, len(inputs), 0),
        "c2.hidden": release_order(hidden[0]),
        **cache("c2", context, 0, [len(inputs)]),
        "c2.position_ids_prompt": _positions(context, len(prompt), 1),
        "c2.prefill_logits": model.text_logits(prompt),
        **_greedy(golden, "c2", after),
    }


@torch.no_grad()
def latents(golden: Golden) -> Produced:
    """c3: a clean picture as latents, then a prompt."""
    model, pixels = golden.model, golden["c3.pixels"][None]
    mean, log_variance = model.autoencoder.moments(pixels).chunk(2, dim=1)
    tokens = model.encode_pixels(pixels, golden["c3.posterior_noise"])
    grid = golden.grid(pixels)
    clean = torch.zeros(1)
    empty = model.empty_context(1)
    context, hidden = model.image_block(empty, tokens, clean, grid)
    inputs = torch.cat([model.markers(1), model.latent_inputs(tokens, clean, grid)], dim=1)[0]
    after, prompt = golden.read(context, golden["c2.prompt_ids"])
    return {
        "c3.posterior_mean": mean,
        "c3.posterior_logvar": log_variance,
        "c3.latent": golden.latent,
        "c3.latent_tokens": tokens[0],
        "c3.latent_position_ids": grid_ids(*grid, model.config.max_latent_size),
        "c3.llm_in": release_order(inputs),
        "c3.position_ids": _positions(empty, len(inputs), 0),
        "c3.hidden": release_order(hidden[0]),
        **cache("c3", context, 0, [len(inputs)]),
        "c3.prefill_logits": model.text_logits(prompt),
        **_greedy(golden, "c3", after),
    }


@torch.no_grad()
def editing(golden: Golden) -> Produced:
    """c3e: the editing context, latents, vision and prompt."""
    edit = golden.edit
    first = edit.after_latents.length
    second = edit.after_vision.length - first
    prompt = edit.full.length - edit.after_vision.length
    return {
        "c3e.vit_position_ids": _positions(edit.after_latents, second, 0),
        "c3e.text_position_ids": _positions(edit.after_vision, prompt, 1),
        **cache("c3e", edit.full, 0, [first, second]),
        "c3e.prefill_logits": edit.prompt_logits,
    }


def resizing(golden: Golden) -> Produced:
    """c10: the resize rule, for every (max, min, stride) among the names."""
    produced = {}
    sizes = golden["c10.wh"].tolist()
    for match in golden.matching(r"c10\.\w+?_(\d+)_(\d+)_(\d+)"):
        long, short, stride = (int(group) for group in match.groups())
        rule = ResizeRule(
            max_size=long, min_size=short, stride=stride, max_pixels=_max_pixels(golden, match[0])
        )
        produced[match[0]] = torch.tensor([rule.size(width, height) for width, height in sizes])
    return produced


def _max_pixels(golden: Golden, name: str) -> int:
    """The largest area, noted in the tensor's meaning as a product such as 14*14*9*1024."""
    bound = re.search(r"max_pixels ([\d*]+)", golden.meaning(name))
    if bound is None:
        return MAX_PIXELS
    area = 1
    for factor in bound[1].strip("*").split("*"):
        area *= int(factor)
    return area
