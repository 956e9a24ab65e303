"""What every launch of a Triton kernel needs: aligned memory, and types that can be stored."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

ALIGNMENT = 16
"""Bytes. Triton compiles another kernel for unaligned pointers, with another order of summation."""


def aligned(tensor: Tensor) -> Tensor:
    """Contiguous and aligned, so that every launch finds the same compiled kernel."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on a CPU."""
    return bool(triton.knobs.runtime.interpret)


def stored(dtype: torch.dtype) -> torch.dtype:
    """The type a kernel stores a result of ``dtype`` in, which the caller then converts.

    It is ``dtype`` itself, but for bfloat16 in the interpreter, which cuts where a GPU rounds.
    """
    return torch.float32 if dtype == torch.bfloat16 and interpreted() else dtype
