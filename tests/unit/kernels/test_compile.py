"""Every kernel compiles to machine code for a Hopper GPU, the token kernels for others as well.

That needs no GPU.

The interpreter accepts programs the compiler refuses (it found one), so both are run.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

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
    **dict.fromkeys(("step", "draw", "T", "V", "splits", "first", "row_blocks"), "i32"),
    **dict.fromkeys(("column_blocks", "rows", "steps", "tokens", "length", "size"), "i32"),
    **dict.fromkeys(("text_scale", "image_scale", "renorm_min", "eps"), "fp32"),
}


OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


def compiled(kernel, constants: dict, pointers: dict | None = None, capability=(9, 0)):
    """The kernel for a card, with its settings; pointers are aligned, as every launch's are."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {"num_warps": 8, "enable_fp_fusion": False}
    options |= {name: constants[name] for name in OPTIONS if name in constants}
    constants = {name: value for name, value in constants.items() if name not in OPTIONS}
    types = SCALARS | (pointers or {})
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "*fp32") for n in names}
    aligned = [(i,) for i, name in enumerate(names) if signature[name].startswith("*")]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={place: [["tt.divisibility", 16]] for place in aligned},
    )
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    return triton.compile(source, target=target, options=options)


def machine_code(kernel, constants: dict) -> bytes:
    return compiled(kernel, constants).asm["cubin"]


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


BRAIN, FLOAT = torch.bfloat16, torch.float32
NAMES = {BRAIN: "*bf16", FLOAT: "*fp32"}


TOKEN_KERNELS = ("partials", "logit_gradient", "hidden_gradient")


def token_kernels(
    hidden: torch.dtype, head: torch.dtype, capability: tuple[int, int], names=TOKEN_KERNELS
) -> dict:
    """Token kernels as the launcher compiles it for a card."""
    from alphagrpo.kernels import launch_tokens as launch
    from alphagrpo.kernels import triton_tokens as kernels
    from alphagrpo.kernels.tiles import plan

    how = plan(hidden, head, capability)
    pointers = {"hidden": NAMES[hidden], "head": NAMES[head]}
    planes = "*fp32" if how.planes == 1 else "*bf16"
    logits = launch.logit_settings(how, 3584)
    gradient = launch.gradient_settings(how, 152_064, 3584)
    launches = {
        "partials": (logits | {"CHUNK": launch.CHUNK}, pointers),
        "logit_gradient": (logits | {"PLANES": how.planes}, pointers | {"out": planes}),
        "hidden_gradient": (gradient, pointers | {"grad_logits": planes}),
    }
    return {
        name: compiled(getattr(kernels, f"{name}_kernel"), *arguments, capability=capability)
        for name, arguments in launches.items()
        if name in names
    }


def cuobjdump(cubin: bytes, folder: Path, option: str) -> str:
    import triton

    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, option, file], capture_output=True, text=True, check=True).stdout


def stack_bytes(cubin: bytes, folder: Path) -> int:
    """What a thread keeps in memory for want of registers."""
    said = re.search(r"STACK:(\d+)", cuobjdump(cubin, folder, "--dump-resource-usage"))
    assert said is not None
    return int(said[1])


def multiplying_loops(cubin: bytes, folder: Path) -> list[list[str]]:
    """Machine instructions of each innermost loop that multiplies."""
    said = cuobjdump(cubin, folder, "-sass")
    lines = [(int(m[1], 16), m[2]) for m in re.finditer(r"/\*([0-9a-f]{4,})\*/\s+([^;]*);", said)]
    jumps = ((end, re.search(r"BRA.* 0x([0-9a-f]+)", text)) for end, text in lines)
    loops = [(int(m[1], 16), end) for end, m in jumps if m and int(m[1], 16) < end]
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    bodies = [[text for at, text in lines if first <= at <= end] for first, end in inner]
    return [body for body in bodies if any("MMA" in text for text in body)]


@pytest.mark.parametrize(
    ("capability", "instruction"), [((8, 0), "mma.sync"), ((8, 9), "mma.sync"), ((9, 0), "wgmma")]
)
def test_token_kernels_of_the_product_multiply_on_tensor_cores_without_spilling(
    capability, instruction, tmp_path
):
    """Operands go to shared memory without passing registers, and no register to memory."""
    for name, code in token_kernels(BRAIN, BRAIN, capability).items():
        assert instruction in code.asm["ptx"], name
        (body,) = multiplying_loops(code.asm["cubin"], tmp_path)
        kinds = {text.split(".")[0].split()[-1] for text in body}
        assert "LDGSTS" in kinds, name
        assert not kinds & {"LDL", "STL"}, name
        assert stack_bytes(code.asm["cubin"], tmp_path) <= 256, f"{name}, once a block"


@pytest.mark.parametrize(("hidden", "head"), [(BRAIN, FLOAT), (FLOAT, BRAIN)])
def test_token_kernels_of_mixed_types_multiply_on_tensor_cores(hidden, head):
    names = ("partials", "hidden_gradient")
    for name, code in token_kernels(hidden, head, (9, 0), names).items():
        assert "wgmma" in code.asm["ptx"], name


@pytest.mark.parametrize(("width", "kind"), [(128, "*fp32"), (3584, "*bf16")])
def test_layer_kernels_compile(width, kind):
    from alphagrpo.kernels import triton_layers as kernels

    rows = {
        "WIDTH": width,
        "BLOCK_R": max(1, 4096 // width),
        "BLOCK_W": 4096 if width > 128 else 128,
    }
    data = dict.fromkeys(
        ("x_ptr", "weight_ptr", "out_ptr", "grad_ptr", "grad_x_ptr", "gate_ptr", "up_ptr",
         "grad_gate_ptr", "grad_up_ptr"), kind
    )  # fmt: skip
    table = {"HEADS": 28, "HALF": 64, "BLOCK_R": 16, "BLOCK_H": 64}
    assert compiled(kernels.rms_norm_kernel, rows, data)
    for flag in (False, True):
        assert compiled(kernels.rms_norm_backward_kernel, rows | {"LEARNT": flag}, data)
        flags = {"PER_SEQUENCE": True, "PER_TOKEN": flag, "BACKWARD": flag}
        assert compiled(kernels.rotate_kernel, table | flags, data)
    assert compiled(kernels.swiglu_kernel, {"BLOCK": 2048}, data)
    assert compiled(kernels.swiglu_backward_kernel, {"BLOCK": 2048}, data)
