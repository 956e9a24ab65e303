"""Every kernel compiles to machine code for a Hopper GPU, which needs no GPU.

The interpreter accepts programs the compiler refuses (it found one), so both are run.
"""

from __future__ import annotations

import os

import pytest

from alphagrpo.kernels import has_triton

pytestmark = [
    pytest.mark.skipif(not has_triton(), reason="triton is not installed"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter replaces the compiler"
    ),
]

TILE = {"N": 1024, "C": 64, "BLOCK_N": 32, "BLOCK_C": 64}
SCALARS = {
    **dict.fromkeys(("seeds", "samples", "targets"), "*i64"),
    **dict.fromkeys(("step", "draw", "T", "V", "splits", "first"), "i32"),
    **dict.fromkeys(("text_scale", "image_scale", "renorm_min"), "fp32"),
}


def machine_code(kernel, constants: dict, pointers: dict | None = None) -> bytes:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = SCALARS | (pointers or {})
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "*fp32") for n in names}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in constants.items()},
    )
    options = {"num_warps": 8, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]


@pytest.mark.parametrize(("branches", "renorm"), [(1, 0), (2, 1), (3, 1), (3, 2), (3, 3)])
def test_transition_kernels_compile(branches, renorm):
    from alphagrpo.kernels import triton_transition as kernels

    constants = {**TILE, "BRANCHES": branches, "RENORM": renorm}
    assert machine_code(kernels.transition_kernel, constants)
    backward = {**constants, "HAS_GRAD_MEAN": True}
    assert machine_code(kernels.transition_backward_kernel, backward)


def test_noise_kernel_compiles():
    from alphagrpo.kernels import triton_transition as kernels

    assert machine_code(kernels.noise_kernel, {"SIZE": 65536, "BLOCK": 1024})


@pytest.mark.parametrize("name", ["partials", "logit_gradient", "hidden_gradient"])
def test_token_kernels_compile(name):
    import triton.language as tl

    from alphagrpo.kernels import triton_tokens as kernels
    from alphagrpo.kernels.launch_tokens import BLOCK_D, BLOCK_T, BLOCK_V, CHUNK

    constants = {
        "D": 3584,
        "CHUNK": CHUNK,
        "BLOCK_T": BLOCK_T,
        "BLOCK_V": BLOCK_V,
        "BLOCK_D": BLOCK_D,
        "COMPUTE": tl.bfloat16,
    }
    pointers = {"hidden": "*bf16", "head": "*bf16"}
    assert machine_code(getattr(kernels, f"{name}_kernel"), constants, pointers)
