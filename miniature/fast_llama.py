"""A Llama stack as plain functions over the modules' parameters, for training small ones on a CPU.

The modules of ``transformers`` compute the same in about twice the time: their norms and rotary
embeddings are many small operations, and their attention knows no shared prefix. Weights are cast
to the input's dtype once per call, so bfloat16 needs no autocast.

Legend of shapes: B rows, S positions, d width, H heads, e width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaModel

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q, k, v), each [B, H, S, e] with q scaled already, to [B, H, S, e]."""
MASKED = -1e4


@cache
def causal_mask(length: int, dtype: torch.dtype) -> Tensor:
    """[S, S] 0 where a position may look, a large negative number where it may not."""
    ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
    return torch.zeros(length, length, dtype=dtype).masked_fill(ahead, MASKED)


def attend_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T + causal mask) v, [B, H, S, e]."""
    scores = q @ k.transpose(-1, -2) + causal_mask(q.shape[-2], q.dtype)
    return scores.softmax(dim=-1) @ v


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, the mean in float32."""
    scale = torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + eps)
    return x * scale.to(x.dtype) * weight.to(x.dtype)


def _rotation(model: LlamaModel, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin, [S, 1, e/2], of the rotary embedding."""
    angles = positions.float()[:, None, None] * model.rotary_emb.inv_freq
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def llama_hidden(
    model: LlamaModel,
    x: Tensor,
    positions: Tensor,
    attend: Attend = attend_causal,
    keep: Callable[[Tensor], Tensor] | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The stack's output after its last norm, [B, S, d], for input embeddings x [B, S, d].

    ``positions`` [S] are the rotary positions. ``keep`` picks the positions whose output is needed
    ([B, S, d] to [B, K, d]); the last layer then works on those alone. ``watch`` gets every
    layer's number and output.
    """
    B, S, d = x.shape
    heads = model.config.num_attention_heads
    eps, scale = model.config.rms_norm_eps, (d // heads) ** -0.5
    cos, sin = _rotation(model, positions, x.dtype)
    last = len(model.layers) - 1
    layer: Any  # a LlamaDecoderLayer; ModuleList only says Module
    for index, layer in enumerate(model.layers):
        own = layer.self_attn
        weight = torch.cat([own.q_proj.weight * scale, own.k_proj.weight, own.v_proj.weight])
        hidden = rms_norm(x, layer.input_layernorm.weight, eps)
        q, k, v = F.linear(hidden, weight.to(x.dtype)).view(B, S, 3, heads, -1).unbind(2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        mixed = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        mixed = mixed.transpose(1, 2).reshape(B, S, d)
        if keep is not None and index == last:
            x, mixed = keep(x), keep(mixed)
        x = x + F.linear(mixed, own.o_proj.weight.to(x.dtype))
        hidden = rms_norm(x, layer.post_attention_layernorm.weight, eps)
        weight = torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]).to(x.dtype)
        gate, up = F.linear(hidden, weight).chunk(2, dim=-1)
        x = x + F.linear(F.silu(gate) * up, layer.mlp.down_proj.weight.to(x.dtype))
        if watch is not None:
            watch(index, x)
    return rms_norm(x, model.norm.weight, eps)
