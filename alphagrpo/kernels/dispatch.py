"""Which implementation runs: Triton for CUDA tensors, plain torch for all others."""

from __future__ import annotations

import functools
import importlib.util
from typing import Literal, get_args

import torch

Backend = Literal["auto", "reference", "triton"]


@functools.cache
def has_triton() -> bool:
    """Whether Triton can be imported; looked up once, without importing it."""
    return importlib.util.find_spec("triton") is not None


def use_triton(backend: Backend, device: torch.device) -> bool:
    """Whether to run the Triton kernels on tensors of ``device``.

    ``auto`` takes Triton exactly for CUDA tensors, and plain torch there only if Triton is not
    installed. ``triton`` on CPU tensors works in Triton's interpreter alone, which the environment
    variable ``TRITON_INTERPRET=1`` switches on before the first import of Triton.

    Raises:
        ValueError: for an unknown backend, or Triton asked for where it is not installed.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if backend == "triton" and not has_triton():
        raise ValueError("backend 'triton' needs the triton package; install it or use 'auto'")
    return backend == "triton" or (backend == "auto" and device.type == "cuda" and has_triton())
