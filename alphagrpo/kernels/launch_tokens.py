"""Launches the Triton token kernels as one differentiable operation."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alphagrpo.flow.reduce import ordered_sum
from alphagrpo.kernels.triton_tokens import (
    hidden_gradient_kernel,
    logit_gradient_kernel,
    partials_kernel,
)

CHUNK = 4096
"""Vocabulary columns a program reduces, and the width of the backward's scratch buffer."""
BLOCK_T, BLOCK_V, BLOCK_D = 64, 128, 32
_COMPUTE = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def token_log_probs(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`alphagrpo.kernels.token_log_probs`."""
    return _TokenLogProbs.apply(hidden.contiguous(), head.detach().contiguous(), targets)


def _settings(hidden: Tensor, head: Tensor) -> dict[str, Any]:
    """Half-precision products, which are exact in float32, where both inputs are of that kind."""
    same = hidden.dtype == head.dtype and hidden.dtype in _COMPUTE
    if hidden.dtype == torch.bfloat16 and triton.knobs.runtime.interpret:
        same = False  # the interpreter multiplies the bit patterns of bfloat16 as integers
    return {
        "D": hidden.shape[1],
        "CHUNK": min(CHUNK, triton.cdiv(head.shape[0], BLOCK_V) * BLOCK_V),
        "BLOCK_T": BLOCK_T,
        "BLOCK_V": BLOCK_V,
        "BLOCK_D": BLOCK_D,
        "enable_fp_fusion": False,
        "COMPUTE": _COMPUTE[hidden.dtype] if same else tl.float32,
    }


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        tokens, vocabulary = hidden.shape[0], head.shape[0]
        settings = _settings(hidden, head)
        splits = triton.cdiv(vocabulary, settings["CHUNK"])
        parts = torch.empty(4, tokens, splits, dtype=torch.float32, device=hidden.device)
        targets = targets.to(torch.int64).contiguous()
        if tokens:
            partials_kernel[(triton.cdiv(tokens, BLOCK_T), splits)](
                hidden, head, targets, *parts, tokens, vocabulary, splits, **settings
            )
        maxima, sums, weighted, chosen = parts
        highest = maxima.amax(dim=1, keepdim=True)
        shift = maxima - highest
        total = ordered_sum(sums * shift.exp())
        moment = ordered_sum((weighted + shift * sums) * shift.exp())
        normaliser = highest[:, 0] + total.log()
        entropy = total.log() - moment / total
        ctx.save_for_backward(hidden, head, targets, normaliser, entropy)
        return ordered_sum(chosen) - highest[:, 0] - total.log(), entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        hidden, head, targets, normaliser, entropy = ctx.saved_tensors
        grad_log_prob, grad_entropy = (g.contiguous() for g in grads)
        tokens, vocabulary = hidden.shape[0], head.shape[0]
        settings = _settings(hidden, head)
        chunk, row_blocks = settings["CHUNK"], triton.cdiv(tokens, BLOCK_T)
        out = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        scratch = out.new_empty(tokens, chunk)
        for first in range(0, vocabulary if tokens else 0, chunk):
            logit_gradient_kernel[(row_blocks, triton.cdiv(chunk, BLOCK_V))](
                hidden, head, targets, normaliser, entropy, grad_log_prob, grad_entropy,
                scratch, first, tokens, vocabulary, **settings,
            )  # fmt: skip
            hidden_gradient_kernel[(row_blocks, triton.cdiv(settings["D"], BLOCK_D))](
                scratch, head, out, first, tokens, vocabulary, **settings
            )
        return out.to(hidden.dtype), None, None
