"""Which type a pass computes in, and heads in float32 whatever that is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional


def working_type(x: Tensor) -> torch.dtype:
    """The type that linear layers give for ``x``: autocast's, where it is on."""
    kind = x.device.type
    # A model without memory, on the meta device, is asked too; autocast does not know of that.
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else x.dtype


def wide_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``hidden`` [..., D] times ``weight`` [O, D] in float32: [..., O]."""
    with _without_autocast(hidden.device.type):
        if bias is None and _sums_wide(hidden, weight):
            rows = hidden.reshape(-1, hidden.shape[-1])
            out = torch.mm(rows, weight.t(), out_dtype=torch.float32)
            return out.view(*hidden.shape[:-1], -1)
        bias = None if bias is None else bias.float()
        return functional.linear(hidden.float(), weight.float(), bias)


def _sums_wide(hidden: Tensor, weight: Tensor) -> bool:
    """Whether the product of two half-precision factors, exact in float32, is summed there without
    widening them first: for the text head at each sampled token on a GPU. It has no gradient.
    """
    halves = hidden.dtype == weight.dtype != torch.float32
    return halves and hidden.is_cuda and not torch.is_grad_enabled()


def _without_autocast(kind: str) -> AbstractContextManager[object]:
    available = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if available else nullcontext()
