"""Grouped-query attention, written twice.

On a CPU, with the short sequences of a miniature model, two matrix products and a softmax are
quicker than the fused operator, above all backward. On a GPU the fused operator is used.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

AttentionKernel = Literal["auto", "matmul", "sdpa"]

MASKED = torch.finfo(torch.float32).min / 2
"""Added where a query may not look; finite, so that a padding row which sees nothing is finite."""


def bias_from(allowed: Tensor) -> Tensor:
    """Additive float32 bias of a boolean mask: 0 where allowed, :data:`MASKED` elsewhere."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, MASKED)


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel: AttentionKernel = "auto"
) -> Tensor:
    """Attention of already scaled queries.

    Args:
        q: [B, S, heads, head_dim], multiplied by ``head_dim ** -0.5`` before.
        k: [B, kv_heads, T, head_dim].
        v: [B, kv_heads, T, head_dim].
        bias: [B, S or 1, T] float32, added to the scores, or None where all may be seen.
        kernel: ``auto`` takes ``sdpa`` on an accelerator and ``matmul`` on a CPU.

    Returns:
        [B, S, heads * head_dim].
    """
    if kernel == "sdpa" or (kernel == "auto" and q.device.type != "cpu"):
        return _fused(q, k, v, bias)
    return _explicit(q, k, v, bias)


def _explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    batch, length, heads, dim = q.shape
    kv_heads, total = k.shape[1], k.shape[2]
    group = heads // kv_heads
    # Heads that share keys become extra rows of one product.
    rows = q.view(batch, length, kv_heads, group, dim).permute(0, 2, 3, 1, 4)
    scores = rows.reshape(batch, kv_heads, group * length, dim) @ k.transpose(2, 3)
    if bias is not None:
        scores = scores.view(batch, kv_heads, group, length, total) + bias[:, None, None]
        scores = scores.view(batch, kv_heads, group * length, total)
    out = scores.softmax(dim=-1).to(v.dtype) @ v
    out = out.view(batch, kv_heads, group, length, dim).permute(0, 3, 1, 2, 4)
    return out.reshape(batch, length, heads * dim)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    batch, length, heads, dim = q.shape
    group = heads // k.shape[1]
    # Repeated heads keep the memory-efficient kernel, which takes a bias but no grouped queries.
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    if bias is not None:
        bias = bias[:, None].to(q.dtype).expand(batch, heads, length, -1)
    out = functional.scaled_dot_product_attention(
        q.transpose(1, 2), k, v, attn_mask=bias, scale=1.0
    )
    return out.transpose(1, 2).reshape(batch, length, heads * dim)
