"""A start that can copy: attention heads which look at the same cell of the picture before.

Editing needs a head that, for a cell of the new picture, looks at the same cell of the picture
before. From a random start (and from a policy that only draws from text) such heads did not
form within the thousands of steps the miniature is trained for, so a few are put in by hand.

Legend of shapes: n latent token, D hidden, c = 9 cells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alphagrpo.models.bagel import Bagel
from alphagrpo.shapes.world import GRID

CELLS = GRID * GRID
HEADS = ((0, 0), (1, 0), (2, 0))
"""(layer, head) that look at their own cell."""
_RIDGE = 1e-3


def cell_codes() -> Tensor:
    """[c, 8] corners of a simplex: unit length, the same angle between any two."""
    centred = torch.eye(CELLS) - 1.0 / CELLS
    axes = torch.linalg.svd(centred).Vh[: CELLS - 1]
    return torch.nn.functional.normalize(centred @ axes.T, dim=1)


@torch.no_grad()
def look_at_own_cell(
    model: Bagel, latents: Tensor, heads: tuple[tuple[int, int], ...] = HEADS
) -> None:
    """Set queries and keys of ``heads`` (generation expert) to a code of the token's cell.

    The code is read from the layer's own input by least squares over ``latents`` [B, N, C] at
    random noise, and lies in the slowest rotary dimensions, so that the distance in the sequence
    hardly turns it. Values and outputs are left to training.
    """
    for index, head in heads:
        layer = model.language_model.model.layers[index]
        inputs = _inputs(model, layer.get_submodule("input_layernorm_moe_gen"), latents)
        cells = torch.arange(CELLS).repeat(len(inputs) // CELLS)
        inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
        ridge = _RIDGE * len(inputs) * torch.eye(inputs.shape[1])
        code = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ cell_codes()[cells])
        for name in ("q_proj_moe_gen", "k_proj_moe_gen"):
            _write(getattr(layer.self_attn, name), head, model.config.llm.head_dim, code)


def _write(projection: nn.Linear, head: int, width: int, code: Tensor) -> None:
    """The head's rows: nothing but ``code`` [D + 1, 8] in the slowest dimensions."""
    rows = projection.weight[head * width : (head + 1) * width]
    bias = projection.bias[head * width : (head + 1) * width]
    rows.zero_()
    bias.zero_()
    # Dimensions i and i + width / 2 turn together; the last ones of each half turn slowest.
    rows[-code.shape[1] :] = code[:-1].T.to(rows.dtype)
    bias[-code.shape[1] :] = code[-1].to(bias.dtype)


def _inputs(model: Bagel, norm: nn.Module, latents: Tensor) -> Tensor:
    """[n, D] what ``norm`` hands its layer for clean and noised pictures."""
    seen: list[Tensor] = []
    handle = norm.register_forward_hook(lambda module, inputs, out: seen.append(out.detach()))
    try:
        # Its own generator: a run that is resumed must begin with the same heads.
        rng = torch.Generator().manual_seed(len(latents))
        t = torch.rand(len(latents), generator=rng)
        t[::2] = 0.0
        noise = torch.randn(latents.shape, generator=rng)
        noised = torch.lerp(latents, noise, t[:, None, None])
        model.velocity(model.empty_context(len(latents)), noised, t, (GRID, GRID))
    finally:
        handle.remove()
    return torch.cat(seen).flatten(0, 1).float()
