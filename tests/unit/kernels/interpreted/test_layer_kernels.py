"""Norm, rotary positions and SwiGLU in the interpreter: values and gradients against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from alphagrpo.kernels import launch_layers, rms_norm, rotate, swiglu

FLOAT, BRAIN = torch.float32, torch.bfloat16
ROUNDING = {FLOAT: 2e-6, BRAIN: 4e-3}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def agree(
    operation: Callable[..., Tensor],
    leaves: list[Tensor],
    out_dtype: torch.dtype,
    **options: object,
) -> None:
    """Value and every leaf's gradient against the reference in float64."""
    sides = []
    for backend, kind in (("triton", None), ("reference", torch.float64)):
        own = [leaf.detach().to(kind or leaf.dtype).requires_grad_() for leaf in leaves]
        wide = {} if kind is None else {"dtype": kind} if "dtype" in options else {}
        out = operation(*own, backend=backend, **(options | wide))
        out.backward(normal(*out.shape, seed=9).to(out.dtype))
        if kind is None:
            assert out.dtype == out_dtype
            assert [leaf.grad.dtype for leaf in own] == [leaf.dtype for leaf in leaves]
        sides.append([out, *(leaf.grad for leaf in own)])
    for got, want in zip(*sides, strict=True):
        # A bfloat16 result was computed from a rounded upstream gradient as well.
        bound = 2 * max(ROUNDING[got.dtype], ROUNDING[out_dtype])
        assert (got.double() - want).abs().max() < bound * want.abs().max()


@pytest.mark.parametrize(
    ("shape", "dtype", "weight_dtype"),
    [
        ((3, 5, 48), FLOAT, FLOAT),
        ((70, 128), BRAIN, BRAIN),
        ((2, 3, 3, 128), BRAIN, FLOAT),
        ((2, 100), FLOAT, BRAIN),
        ((1, 5000), BRAIN, BRAIN),
    ],
)
def test_norm(shape: tuple[int, ...], dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    x, weight = normal(*shape).to(dtype), normal(shape[-1], seed=1).to(weight_dtype)
    agree(lambda x, w, backend: rms_norm(x, w, 1e-2, backend=backend), [x, weight], weight_dtype)


def test_a_norms_weight_is_summed_over_programs_of_several_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch_layers, "MOST_SHARES", 3)
    x, weight = normal(300, 128), normal(128, seed=1)
    agree(lambda x, w, backend: rms_norm(x, w, 1e-6, backend=backend), [x, weight], FLOAT)


def test_a_frozen_norm_gives_the_same_gradient_to_its_input() -> None:
    x, weight = normal(7, 48), normal(48, seed=1)
    grads = []
    for learnt in (False, True):
        leaf = x.clone().requires_grad_()
        own = weight.clone().requires_grad_(learnt)
        rms_norm(leaf, own, 1e-6, backend="triton").sum().backward()
        assert (own.grad is not None) == learnt
        grads.append(leaf.grad)
    assert torch.equal(*grads)


def tables(batch: int, length: int, width: int) -> tuple[Tensor, Tensor]:
    angle = 3.0 * normal(batch, length, 1, width, seed=2)
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("dtype", [FLOAT, BRAIN])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 1), (1, 19), (2, 19)])
@pytest.mark.parametrize(("heads", "width"), [(3, 128), (1, 24)])
def test_rotation(dtype: torch.dtype, batch: int, length: int, heads: int, width: int) -> None:
    cos, sin = tables(batch, length, width)

    def operation(x: Tensor, backend: str, dtype: torch.dtype) -> Tensor:
        return rotate(x, cos.to(x.dtype if backend == "reference" else FLOAT), sin, dtype=dtype,
                      backend=backend)  # fmt: skip

    agree(operation, [normal(2, 19, heads, width).to(dtype)], dtype, dtype=dtype)


def test_a_rotation_to_a_narrower_type_is_rounded_once() -> None:
    x, (cos, sin) = normal(2, 5, 3, 16), tables(2, 5, 16)
    narrow = rotate(x, cos, sin, dtype=BRAIN, backend="triton")
    assert torch.equal(narrow, rotate(x, cos, sin, backend="triton").to(BRAIN))


@pytest.mark.parametrize("dtype", [FLOAT, BRAIN])
@pytest.mark.parametrize("shape", [(5,), (3, 7, 300)])
def test_swiglu(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    agree(swiglu, [3.0 * normal(*shape).to(dtype), normal(*shape, seed=1).to(dtype)], dtype)


def test_swiglu_of_large_gates_is_finite() -> None:
    gate = torch.tensor([-1e4, -90.0, 90.0, 1e4]).requires_grad_()
    out = swiglu(gate, torch.ones(4), backend="triton")
    out.sum().backward()
    torch.testing.assert_close(out.detach(), torch.tensor([0.0, 0.0, 90.0, 1e4]))
    torch.testing.assert_close(gate.grad, torch.tensor([0.0, 0.0, 1.0, 1.0]))


OPERATIONS: list[Callable[[Tensor], Tensor]] = [
    lambda x: rms_norm(x, torch.linspace(1, 2, 128).to(x.dtype), 1e-6, backend="triton"),
    lambda x: rotate(x[:, None, None], *tables(1, 1, 128), dtype=BRAIN, backend="triton"),
    lambda x: swiglu(x, x.flip(-1), backend="triton"),
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_bits_are_the_same_with_gradient_without_alone_and_at_any_address(
    operation: Callable[[Tensor], Tensor],
) -> None:
    x = normal(67, 128).bfloat16()
    shifted = torch.empty(67 * 128 + 1, dtype=BRAIN)[1:].view(67, 128).copy_(x)
    assert shifted.data_ptr() % 16
    with torch.no_grad():
        rolled = operation(x)
        alone = operation(x[66:])
    assert torch.equal(rolled, operation(shifted.requires_grad_()))
    assert torch.equal(rolled[66:], alone)


def test_nothing_gives_nothing() -> None:
    for operation in OPERATIONS:
        leaf = torch.empty(0, 128, dtype=BRAIN).requires_grad_()
        operation(leaf).sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.shape == (0, 128)
