"""Launches the Triton token kernels as one differentiable operation."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alphagrpo.flow.reduce import ordered_sum
from alphagrpo.kernels.launch import aligned, interpreted
from alphagrpo.kernels.tiles import GROUP, Plan, Tile, capability_of, plan
from alphagrpo.kernels.triton_tokens import (
    hidden_gradient_kernel,
    logit_gradient_kernel,
    partials_kernel,
)

CHUNK = 2048
"""Vocabulary columns a program reduces: 1,792 tokens and 152,064 entries fill 132 multiprocessors
8 times to 99 %."""
SCRATCH_BYTES = 2**28
"""What backward holds of the logits' gradient at one time."""
_COMPUTE = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def token_log_probs(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`alphagrpo.kernels.token_log_probs`."""
    return _TokenLogProbs.apply(aligned(hidden), aligned(head.detach()), targets)


def _tiled(tile: Tile) -> dict[str, Any]:
    return {
        "BLOCK_T": tile.rows,
        "GROUP": GROUP,
        "WIDEN": interpreted(),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": False,
    }


def logit_settings(how: Plan, width: int) -> dict[str, Any]:
    """Compile-time arguments of the kernels that compute logits of hidden states [T, width]."""
    return _tiled(how.logits) | {
        "D": width,
        "BLOCK_V": how.logits.columns,
        "BLOCK_D": how.logits.depth,
        "COMPUTE": _COMPUTE[how.kind],
        "HIDDEN_PARTS": how.hidden_parts,
        "HEAD_PARTS": how.head_parts,
    }


def gradient_settings(how: Plan, vocabulary: int, width: int) -> dict[str, Any]:
    """Compile-time arguments of the kernel that multiplies the logits' gradient with the head."""
    return _tiled(how.gradient) | {
        "D": width,
        "PLANES": how.planes,
        "CHUNK_BLOCK": how.logits.columns,
        "BLOCK_V": how.gradient.depth,
        "BLOCK_D": how.gradient.columns,
        "WHOLE": vocabulary % how.gradient.depth == 0 and width % how.gradient.columns == 0,
        "HEAD_PARTS": how.head_parts,
    }


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        (tokens, width), vocabulary = hidden.shape, head.shape[0]
        how = plan(hidden.dtype, head.dtype, capability_of(hidden.device))
        splits, row_blocks = triton.cdiv(vocabulary, CHUNK), triton.cdiv(tokens, how.logits.rows)
        # Buffers of their own: rows of one would be aligned for some numbers of tokens alone.
        parts = [
            torch.empty(tokens, splits, dtype=torch.float32, device=hidden.device) for _ in range(4)
        ]
        targets = aligned(targets.to(torch.int64))
        if tokens:
            partials_kernel[(row_blocks * splits,)](
                hidden, head, targets, *parts, tokens, vocabulary, row_blocks, splits,
                CHUNK=CHUNK, **logit_settings(how, width),
            )  # fmt: skip
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
        (tokens, width), vocabulary = hidden.shape, head.shape[0]
        out = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        if not tokens:
            return out.to(hidden.dtype), None, None
        grad_log_prob, grad_entropy = (aligned(g) for g in grads)
        how = plan(hidden.dtype, head.dtype, capability_of(hidden.device))
        row_blocks, column_blocks = _chunk(how, tokens, vocabulary)
        chunk = column_blocks * how.logits.columns
        kind = torch.float32 if how.planes == 1 else torch.bfloat16
        scratch = torch.empty(how.planes, tokens, chunk, dtype=kind, device=hidden.device)
        out_blocks = triton.cdiv(tokens, how.gradient.rows)
        owners = out_blocks * triton.cdiv(width, how.gradient.columns)
        for first in range(0, vocabulary, chunk):
            logit_gradient_kernel[(row_blocks * column_blocks,)](
                hidden, head, targets, normaliser, entropy, grad_log_prob, grad_entropy,
                scratch, first, tokens, vocabulary, row_blocks, column_blocks,
                PLANES=how.planes, **logit_settings(how, width),
            )  # fmt: skip
            hidden_gradient_kernel[(owners,)](
                scratch, head, out, first, tokens, vocabulary, out_blocks, column_blocks,
                **gradient_settings(how, vocabulary, width),
            )  # fmt: skip
        return out.to(hidden.dtype), None, None


def _chunk(how: Plan, tokens: int, vocabulary: int) -> tuple[int, int]:
    """Blocks of rows, and blocks of columns whose gradient fits the scratch buffer."""
    rows, columns = how.logits.rows, how.logits.columns
    block_bytes = (4 if how.planes == 1 else 2 * how.planes) * tokens * columns
    fitting = max(1, SCRATCH_BYTES // block_bytes)
    return triton.cdiv(tokens, rows), min(fitting, triton.cdiv(vocabulary, columns))
