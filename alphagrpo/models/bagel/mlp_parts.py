"""A layer's MLP for some thousands of tokens after others.

Its inner matrices are what a layer needs most memory for: at 7B a value of one of them for each of
28,728 tokens is 1.09 GB, and a backward pass holds about ten. Tokens do not meet in an MLP, so that
it needs no more at a time than a part of the tokens has. Rollout and replay split alike, by the
number of tokens alone: a product of fewer rows may round otherwise than one of more.

Legend of shapes: B sequence, S token, D hidden, N = B S.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alphagrpo.models.bagel.space import PART_TOKENS


def in_parts(mlp: nn.Module, x: Tensor, *, recompute: bool) -> Tensor:
    """``mlp`` of ``x`` [B, S, D], in as few parts of equal size as :data:`PART_TOKENS` admits.

    With ``recompute`` only ``x`` is kept, and each part is computed again when it is its turn
    backward; gradients have the same bits. A checkpoint around this stops to recompute once ``x``
    is there again, so that no part is computed a third time.
    """
    rows = x.flatten(0, 1)
    number = -(-len(rows) // PART_TOKENS)
    if number < 2:
        return mlp(x)
    if not recompute:
        return torch.cat([mlp(part) for part in rows.chunk(number)]).view(x.shape)
    # The keeper comes before the first part, so that a recomputation need not go through any.
    anchor = torch.empty(0, device=x.device, requires_grad=True)
    keeper = _Keeper.apply(anchor, rows.detach()).grad_fn
    return _Recomputed.apply(mlp, number, keeper, rows, *mlp.parameters()).view(x.shape)


class _Keeper(torch.autograd.Function):
    """Has a tensor saved: what a checkpoint around it sees of it."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return anchor.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise AssertionError("nothing is computed from a keeper's output")


class _Recomputed(torch.autograd.Function):
    """The parts, without their inner matrices, which backward makes again one part at a time."""

    @staticmethod
    def forward(
        ctx: Any, mlp: nn.Module, number: int, keeper: Any, rows: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.mlp, ctx.number, ctx.keeper = mlp, number, keeper
        ctx.autocast = _autocast(rows.device.type)
        return torch.cat([mlp(part) for part in rows.chunk(number)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (rows,) = ctx.keeper.saved_tensors
        # Nothing passes backward through it, so that nothing else lets go of what it keeps.
        ctx.keeper = None
        parameters = list(ctx.mlp.parameters())
        learnt = [p for p in parameters if p.requires_grad]
        parts = list(zip(rows.chunk(ctx.number), grads[0].chunk(ctx.number), strict=True))
        sums: list[Tensor | None] = [None] * len(learnt)
        inputs: list[Tensor] = []
        # The last part first, as autograd would: sums of more than two have an order.
        for part, grad in reversed(parts):
            with torch.enable_grad(), ctx.autocast:
                part = part.detach().requires_grad_()
                out = ctx.mlp(part)
            own, *found = torch.autograd.grad(out, [part, *learnt], grad, allow_unused=True)
            inputs.append(own)
            sums = [_sum(total, new) for total, new in zip(sums, found, strict=True)]
        each = iter(sums)
        return (
            None,
            None,
            None,
            torch.cat(inputs[::-1]),
            *(next(each) if p.requires_grad else None for p in parameters),
        )


def _autocast(kind: str) -> torch.autocast:
    """As it is now, for what is computed later."""
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return torch.autocast(kind, dtype, enabled=enabled)


def _sum(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    if total is None or new is None:
        return new if total is None else total
    return total + new
