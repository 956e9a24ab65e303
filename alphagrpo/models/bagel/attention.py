"""Grouped-query attention: by two products on a CPU, by torch's fused operator on a GPU.

On a CPU, with the short sequences of a miniature model, two matrix products and a softmax are
quicker than the fused operator, above all backward.

On a GPU the backend is chosen here, by the number of queries, and not by torch: cuDNN, which torch
takes on a Hopper card, gave one query against more than 128 keys several results for one input,
and the thoughts of a group drawn again were others (docs/gpu.md). Rollout and replay have the same
geometry, hence the same backend.
"""

from __future__ import annotations

import threading
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from alphagrpo.models.bagel.config import LlmConfig
from alphagrpo.models.bagel.precision import working_type
from alphagrpo.models.unified import AttentionShape
from alphagrpo.options import AttentionKernel

Backend = Literal["matmul", "cudnn", "efficient", "math"]

MASKED = torch.finfo(torch.float32).min / 2
"""Added where a query may not look; finite, so that a padding row which sees nothing is finite."""
CUDNN_LEAST_QUERIES = 130
"""The shortest block for which cuDNN was seen to repeat itself (on an H200; 1 query does not)."""
ALIGNMENT = 8
"""Values between rows of a mask, of which fused kernels take multiples; others are copied."""

_ALLOWED = {
    # All but cuDNN's end with what takes any input: other threads of the process, which read the
    # same choice, never find none.
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "efficient": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "math": [SDPBackend.MATH],
}
_CHOICE = threading.Lock()
"""torch keeps the backends that it may take for the whole process."""


def bias_from(allowed: Tensor) -> Tensor:
    """Additive float32 bias of a boolean mask: 0 where allowed, :data:`MASKED` elsewhere."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, MASKED)


def aligned(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of ``bias`` [..., T] whose rows begin at multiples of :data:`ALIGNMENT` values."""
    length = bias.shape[-1]
    width = -(-length // ALIGNMENT) * ALIGNMENT
    rows = torch.zeros(*bias.shape[:-1], width, dtype=dtype, device=bias.device)
    rows = rows[..., :length]
    rows.copy_(bias)
    return rows


def prepared(bias: Tensor | None, like: Tensor, kernel: AttentionKernel) -> Tensor | None:
    """``bias`` as every layer of a pass takes it: once converted, for fused kernels only."""
    if bias is None or backend_of(kernel, like.device, 1) == "matmul":
        return bias
    dtype = working_type(like)
    ready = bias.dtype == dtype and bias.stride(-2) % ALIGNMENT == 0
    return bias if ready else aligned(bias, dtype)


def backend_of(kernel: AttentionKernel, device: torch.device, queries: int) -> Backend:
    """Which backend a block of so many queries gets, as far as cuDNN takes its inputs."""
    if kernel != "auto":
        return kernel
    if device.type == "cpu":
        return "matmul"
    return "cudnn" if queries >= CUDNN_LEAST_QUERIES else "efficient"


def chosen(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel: AttentionKernel
) -> Backend:
    """The backend of these inputs, which :func:`attend` describes."""
    backend = backend_of(kernel, q.device, q.shape[1])
    if backend == "cudnn" and not _cudnn_takes(q, k, v, bias):
        return "efficient"
    return backend


def random_inputs(
    config: LlmConfig, shape: AttentionShape, *, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and bias of a block of ``shape``, as the decoder would have them."""
    batch, queries, keys = shape.batch, shape.queries, shape.keys
    generator = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, device=device).to(dtype)

    dim, cached = config.head_dim, (batch, config.num_key_value_heads, keys, config.head_dim)
    q = normal(batch, queries, config.num_attention_heads, dim) * dim**-0.5
    rows = queries if shape.causal else 1
    allowed = torch.ones(batch, rows, keys, dtype=torch.bool, device=device)
    if shape.causal:
        allowed = allowed.tril(keys - queries)
    bias = prepared(bias_from(allowed), q, "auto")
    assert bias is not None
    return q, normal(*cached), normal(*cached), bias


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel: AttentionKernel = "auto"
) -> Tensor:
    """Attention of already scaled queries.

    Args:
        q: [B, S, heads, head_dim], multiplied by ``head_dim ** -0.5`` before.
        k: [B, kv_heads, T, head_dim].
        v: [B, kv_heads, T, head_dim].
        bias: [B, S or 1, T], added to the scores, or None where all may be seen.
        kernel: ``auto`` takes ``matmul`` on a CPU, elsewhere by the number of queries.

    Returns:
        [B, S, heads * head_dim].
    """
    backend = chosen(q, k, v, bias, kernel)
    if backend == "matmul":
        return _explicit(q, k, v, bias)
    if bias is not None and bias.dtype != q.dtype:
        bias = aligned(bias, q.dtype)
    rows = 1 if bias is None else bias.shape[1]
    if backend == "efficient" and (rows == 1 or q.shape[1] < CUDNN_LEAST_QUERIES):
        return _folded(q, k, v, bias)
    return _grouped(q, k, v, bias, backend)


def _explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    batch, length = q.shape[:2]
    kv_heads, total = k.shape[1], k.shape[2]
    scores = _as_rows(q, kv_heads) @ k.transpose(2, 3)
    if bias is not None:
        scores = scores.view(batch, kv_heads, -1, length, total) + bias[:, None, None]
        scores = scores.view(batch, kv_heads, -1, total)
    return _from_rows(scores.softmax(dim=-1).to(v.dtype) @ v, length)


def _folded(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Memory-efficient attention, which knows no groups: heads that share keys become rows."""
    rows = _as_rows(q, k.shape[1])
    if bias is not None and bias.shape[1] > 1:
        bias = aligned(bias.repeat(1, rows.shape[2] // q.shape[1], 1), bias.dtype)
    return _from_rows(_fused(rows, k, v, bias, "efficient"), q.shape[1])


def _grouped(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, backend: Backend) -> Tensor:
    """Heads as they are. Keys are repeated only where a long block has a mask of its own for each
    query and cuDNN is not there: folded, that mask would be repeated, and it is larger.
    """
    if backend == "efficient":
        k, v = (x.repeat_interleave(q.shape[2] // k.shape[1], dim=1) for x in (k, v))
    out = _fused(q.transpose(1, 2), k, v, bias, backend)
    return out.transpose(1, 2).reshape(*q.shape[:2], -1)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, backend: Backend) -> Tensor:
    mask = None if bias is None else bias[:, None]
    with _CHOICE, sdpa_kernel(_ALLOWED[backend], set_priority=True):
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=1.0, enable_gqa=q.shape[1] != k.shape[1]
        )


def _cudnn_takes(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> bool:
    if q.device.type != "cuda":
        return False
    from torch.backends import cuda

    mask = None if bias is None else bias[:, None]
    grouped = q.shape[2] != k.shape[1]
    inputs = cuda.SDPAParams(q.transpose(1, 2), k, v, mask, 0.0, False, grouped)
    with _CHOICE:  # another thread's choice may leave cuDNN out for the moment
        return bool(cuda.can_use_cudnn_attention(inputs))


def _as_rows(q: Tensor, kv_heads: int) -> Tensor:
    """[B, S, heads, head_dim] to [B, kv_heads, group * S, head_dim]: heads that share keys become
    extra rows of one product.
    """
    batch, length, heads, dim = q.shape
    rows = q.view(batch, length, kv_heads, heads // kv_heads, dim).permute(0, 2, 3, 1, 4)
    return rows.reshape(batch, kv_heads, -1, dim)


def _from_rows(out: Tensor, length: int) -> Tensor:
    """[B, kv_heads, group * S, head_dim] to [B, S, heads * head_dim]."""
    batch, kv_heads, _, dim = out.shape
    out = out.view(batch, kv_heads, -1, length, dim).permute(0, 3, 1, 2, 4)
    return out.reshape(batch, length, -1)
