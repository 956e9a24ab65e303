"""A decoder layer's passes on the CPU: exactly plain torch, and misuse refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from alphagrpo.kernels import rms_norm, rotate, swiglu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_the_cpu_the_bits_are_those_of_plain_torch(dtype: torch.dtype) -> None:
    x, up = torch.randn(2, 3, 5, 4, 16).to(dtype).unbind()
    cos, sin = torch.randn(2, 3, 1, 1, 16).unbind()
    rotated = torch.addcmul(x * cos, torch.roll(x, 8, dims=-1), sin)
    assert torch.equal(rotate(x, cos, sin), rotated)
    assert torch.equal(rotate(x, cos, sin, dtype=dtype), rotated.to(dtype))
    assert torch.equal(swiglu(x, up), functional.silu(x) * up)


def test_a_norm_in_half_precision_is_plain_torch() -> None:
    x, weight = torch.randn(5, 16).bfloat16(), torch.randn(16).bfloat16()
    assert torch.equal(rms_norm(x, weight, 1e-6), functional.rms_norm(x, (16,), weight, 1e-6))


def test_misuse_is_refused() -> None:
    x, table = torch.zeros(2, 3, 4, 16), torch.zeros(2, 3, 1, 16)
    with pytest.raises(ValueError, match=r"weight must be \[16\].*got \(15,\)"):
        rms_norm(x, torch.ones(15), 1e-6)
    with pytest.raises(ValueError, match="even head_dim"):
        rotate(x[..., :15], table, table)
    with pytest.raises(ValueError, match=r"\[2 or 1, 3 or 1, 1, 16\]"):
        rotate(x, table[:, :2], table[:, :2])
    with pytest.raises(ValueError, match=r"\[2 or 1, 3 or 1, 1, 16\]"):
        rotate(x, table, table[:1])
    with pytest.raises(ValueError, match="one shape and one type"):
        swiglu(x, x.bfloat16())
