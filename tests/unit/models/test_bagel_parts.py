"""BAGEL's parts by themselves: positions, patches, norm, attention, pictures, plain sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from alphagrpo.flow import Guidance
from alphagrpo.models.bagel.attention import (
    ALIGNMENT,
    CUDNN_LEAST_QUERIES,
    MASKED,
    attend,
    bias_from,
    prepared,
)
from alphagrpo.models.bagel.embeddings import (
    PositionTable,
    TimeEmbedder,
    grid_ids,
    patchify,
    rotary,
    sincos_table,
    unpatchify,
)
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.bagel.norm import RmsNorm
from alphagrpo.models.bagel.sampling import Branches, draw, greedy_text, guided_velocity, to_bytes
from alphagrpo.models.bagel.vit import whole_patches
from alphagrpo.models.unified import Context, pack
from alphagrpo.options import AttentionKernel


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_position_has_its_column_first_then_its_row() -> None:
    side, channels = 5, 8
    table = sincos_table(side, channels).view(side, side, channels)
    for row in range(side):
        for column in range(side):
            want = [
                function(place * 10000.0 ** (-j / 2))
                for place in (column, row)
                for function in (math.sin, math.cos)
                for j in range(2)
            ]
            torch.testing.assert_close(table[row, column], torch.tensor(want))


def test_a_smaller_picture_takes_its_corner_of_the_table() -> None:
    table = PositionTable(4, 8)
    assert grid_ids(2, 3, 4).tolist() == [0, 1, 2, 4, 5, 6]
    assert torch.equal(table((2, 3)), table.pos_embed[[0, 1, 2, 4, 5, 6]])
    assert torch.equal(table((4, 4)), table.pos_embed)


@pytest.mark.parametrize("grid", [(5, 1), (1, 5)])
def test_a_picture_over_the_table_is_refused_on_either_side(grid: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"at most 4x4 tokens, this one has {grid[0]}x{grid[1]}"):
        PositionTable(4, 8)(grid)


def test_patches_are_rows_of_pixels_with_channels_last() -> None:
    pixels = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    tokens = patchify(pixels, 2)
    assert tokens.shape == (2, 2 * 3, 2 * 2 * 3)
    second = pixels[1, :, 2:4, 4:6]
    assert torch.equal(tokens[1, 5], second.permute(1, 2, 0).flatten())
    assert torch.equal(unpatchify(tokens, (2, 3), 2), pixels)
    with pytest.raises(ValueError, match="multiples of the patch 4, got 4x6; resize"):
        patchify(pixels, 4)


def test_rotary_angles_are_position_times_falling_frequencies() -> None:
    cos, sin = rotary(torch.tensor([[0, 3]]), 4, 100.0)
    want = torch.tensor([3.0, 0.3, 3.0, 0.3])
    torch.testing.assert_close(cos[0, 1], want.cos())
    torch.testing.assert_close(sin[0, 1], want.sin())
    assert torch.equal(cos[0, 0], torch.ones(4))


def test_time_is_embedded_as_it_is_cosines_first() -> None:
    embedder = TimeEmbedder(6, 4)
    wave = embedder.sinusoid(torch.tensor([0.5]))[0]
    angles = torch.tensor([0.5, 0.5 * 0.01])
    torch.testing.assert_close(wave, torch.cat([angles.cos(), angles.sin()]))
    assert embedder(torch.tensor([0.1, 0.9])).shape == (2, 6)


@torch.no_grad()
def test_keys_remember_where_they_stand_and_scores_only_how_far_apart(model: Bagel) -> None:
    token_ids, lengths = torch.tensor([[1, 7, 8, 9, 2]]), torch.tensor([5])
    _, near = model.read_text(model.empty_context(1), token_ids, lengths)
    far = model.empty_context(1)
    far = Context(far.keys, far.values, far.mask, far.position + 1000)
    moved, hidden = model.read_text(far, token_ids, lengths)
    torch.testing.assert_close(hidden, near, atol=2e-4, rtol=2e-4)
    assert moved.position.tolist() == [1005]
    at_zero, _ = model.read_text(model.empty_context(1), token_ids, lengths)
    assert (moved.keys[0] - at_zero.keys[0]).abs().max() > 0.1
    assert torch.equal(moved.values[0], at_zero.values[0])


@torch.no_grad()
def test_order_matters_to_what_is_read(model: Bagel) -> None:
    length = torch.tensor([4])
    _, a = model.read_text(model.empty_context(1), torch.tensor([[1, 7, 8, 2]]), length)
    _, b = model.read_text(model.empty_context(1), torch.tensor([[1, 8, 7, 2]]), length)
    assert (a[0, -1] - b[0, -1]).abs().max() > 1e-3
    assert torch.equal(a[0, 0], b[0, 0]), "reading is causal"


@torch.no_grad()
def test_nothing_is_seen_of_padding_whatever_lies_there(model: Bagel) -> None:
    lengths = torch.tensor([5, 3])
    rows = torch.tensor([[1, 7, 8, 9, 2], [1, 5, 2, 11, 12]])
    other = rows.clone()
    other[1, 3:] = torch.tensor([30, 31])
    x, t, results = normal(2, 6, model.latent_channels), torch.tensor([0.7, 0.2]), []
    for token_ids in (rows, other):
        context, _ = model.read_text(model.empty_context(2), token_ids, lengths)
        context, hidden = model.read_text(
            context, torch.tensor([[1, 6, 2]] * 2), torch.tensor([3, 3])
        )
        results.append((hidden, model.velocity(context, x, t, (2, 3))))
    assert context.mask[1].tolist() == [True] * 3 + [False] * 2 + [True] * 3
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@torch.no_grad()
def test_a_padded_pack_of_branches_keeps_masks_and_positions(model: Bagel) -> None:
    long, _ = model.read_text(
        model.empty_context(1), torch.tensor([[1, 7, 8, 2]]), torch.tensor([4])
    )
    short, _ = model.read_text(model.empty_context(1), torch.tensor([[1, 2]]), torch.tensor([2]))
    packed = pack([long, short])
    assert packed.mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert packed.position.tolist() == [4, 2]
    assert torch.equal(packed.keys[1][1, :2], short.keys[1][0])
    assert not packed.keys[1][1, 2:].any()
    assert packed.rows(torch.tensor([1])).position.tolist() == [2]


def test_attention_is_the_softmax_over_what_is_allowed() -> None:
    q, k, v = normal(2, 3, 4, 8), normal(2, 2, 5, 8, seed=1), normal(2, 2, 5, 8, seed=2)
    allowed = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(3)) > 0.4
    allowed[:, :, 0] = True
    got = attend(q, k, v, bias_from(allowed), "matmul").view(2, 3, 4, 8)
    for batch, query, head in np.ndindex(2, 3, 4):
        keys, values = k[batch, head // 2], v[batch, head // 2]
        scores = (keys @ q[batch, query, head])[allowed[batch, query]]
        want = scores.softmax(0) @ values[allowed[batch, query]]
        torch.testing.assert_close(got[batch, query, head], want, atol=1e-5, rtol=1e-5)


def test_a_row_that_may_see_nothing_is_finite_in_both_kernels() -> None:
    q, k, v = normal(1, 2, 2, 4), normal(1, 1, 3, 4, seed=1), normal(1, 1, 3, 4, seed=2)
    bias = bias_from(torch.tensor([[[True] * 3, [False] * 3]]))
    assert bias[0, 1].tolist() == [MASKED] * 3
    results = [attend(q, k, v, bias, kernel) for kernel in ("matmul", "efficient", "math")]
    assert all(torch.isfinite(result).all() for result in results)
    torch.testing.assert_close(results[0][0, 0], results[1][0, 0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("queries", [1, 5, CUDNN_LEAST_QUERIES + 3])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kernel", ["efficient", "math"])
def test_fused_kernels_with_shared_keys_agree_with_the_products(
    queries: int, own: bool, kernel: AttentionKernel
) -> None:
    """Heads folded into rows, keys repeated, masks for all queries and for each."""
    q, k, v = normal(2, queries, 6, 8), normal(2, 2, 141, 8, seed=1), normal(2, 2, 141, 8, seed=2)
    generator = torch.Generator().manual_seed(3)
    allowed = torch.rand(2, queries if own else 1, 141, generator=generator) > 0.4
    allowed[:, :, 0] = True
    bias = bias_from(allowed)
    want = attend(q, k, v, bias, "matmul")
    torch.testing.assert_close(attend(q, k, v, bias, kernel), want, atol=1e-5, rtol=1e-5)
    ready = prepared(bias, q, kernel)
    assert ready is not None
    assert ready.stride(-2) % ALIGNMENT == 0
    assert torch.equal(ready, bias)
    assert prepared(ready, q, kernel) is ready, "converted once"
    assert torch.equal(attend(q, k, v, ready, kernel), attend(q, k, v, bias, kernel))
    nothing = attend(q, k, v, None, kernel)
    torch.testing.assert_close(nothing, attend(q, k, v, None, "matmul"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_norm_is_its_formula_in_every_type(dtype: torch.dtype) -> None:
    norm = RmsNorm(6, 1e-2)
    torch.nn.init.normal_(norm.weight)
    norm, x = norm.to(dtype), normal(3, 4, 6).to(dtype)
    wide = x.double()
    want = wide / (wide.square().mean(-1, keepdim=True) + 1e-2).sqrt() * norm.weight.double()
    assert norm(x).dtype == dtype
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(norm(x).double(), want, atol=tolerance, rtol=tolerance)


def test_the_norm_takes_an_input_of_less_precision_in_its_own() -> None:
    norm, x = RmsNorm(4, 1e-6), normal(2, 4).bfloat16()
    assert norm(x).dtype == torch.float32
    assert torch.equal(norm(x), norm(x.float()))


def test_pictures_of_whole_patches_are_scaled_and_not_resized() -> None:
    pixels = np.arange(2 * 16 * 24 * 3, dtype=np.uint32).reshape(2, 16, 24, 3).astype(np.uint8)
    read = whole_patches(pixels, 8, 6)
    assert read.shape == (2, 3, 16, 24)
    assert torch.equal(read[1, 2], torch.from_numpy(pixels[1, :, :, 2]).float() / 127.5 - 1.0)


@pytest.mark.parametrize(
    ("size", "patch", "most", "want"),
    [((512, 512), 14, 70, (518, 518)), ((20, 30), 8, 6, (16, 32)), ((96, 48), 8, 6, (48, 24))],
)
def test_other_pictures_become_whole_patches_within_the_table(
    size: tuple[int, int], patch: int, most: int, want: tuple[int, int]
) -> None:
    pixels = np.full((1, *size, 3), 255, np.uint8)
    pixels[:, : size[0] // 2] = 0
    read = whole_patches(pixels, patch, most)
    assert read.shape[2:] == want
    assert read.min() >= -1.0
    assert read.max() <= 1.0, "bicubic overshoot is cut off"
    assert read[0, :, 0].max() < -0.9
    assert read[0, :, -1].min() > 0.9


@torch.no_grad()
def test_greedy_text_takes_the_likeliest_and_ends_before_its_stop(model: Bagel) -> None:
    context, _ = model.read_text(
        model.empty_context(1), torch.tensor([[1, 7, 2]]), torch.tensor([3])
    )
    ids, logits = greedy_text(model, context, 6)
    assert ids[0] == model.special.text_start
    assert torch.equal(ids[1:], logits[:-1].argmax(-1))
    whole, hidden = model.read_text(context, ids[None], torch.tensor([6]))
    torch.testing.assert_close(model.text_logits(hidden[0]), logits, atol=1e-4, rtol=1e-4)
    assert whole.length == 9
    stop = int(logits[0].argmax())
    assert greedy_text(model, context, 6, stop)[0].tolist() == [model.special.text_start]


@torch.no_grad()
def test_guided_velocity_is_the_formula_over_separate_branches(model: Bagel) -> None:
    full, _ = model.read_text(
        model.empty_context(1), torch.tensor([[1, 7, 8, 2]]), torch.tensor([4])
    )
    system, _ = model.read_text(model.empty_context(1), torch.tensor([[1, 2]]), torch.tensor([2]))
    x, grid = normal(1, 6, model.latent_channels), (2, 3)
    guidance = Guidance(text_scale=3.0, image_scale=2.0, interval=(0.4, 1.0), renorm="none")
    branches = Branches(full, system, model.empty_context(1))

    def velocity(context: Context, t: float) -> Tensor:
        return model.velocity(context, x, torch.tensor([t]), grid)

    cond, text, image = (velocity(c, 0.8) for c in (full, system, model.empty_context(1)))
    inner = text + 3.0 * (cond - text)
    got = guided_velocity(model, branches, x, 0.8, grid, guidance)
    torch.testing.assert_close(got, image + 2.0 * (inner - image), atol=1e-4, rtol=1e-4)
    outside = guided_velocity(model, branches, x, 0.3, grid, guidance)
    torch.testing.assert_close(outside, velocity(full, 0.3), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_a_path_is_euler_steps_along_its_velocities(model: Bagel) -> None:
    context = model.empty_context(2)
    times = torch.tensor([1.0, 0.7, 0.3, 0.0])
    guidance = Guidance(text_scale=2.0, interval=(0.5, 1.0), renorm="global")
    path = draw(model, Branches(context, context), normal(2, 6, 16), times, (2, 3), guidance)
    assert path.guided == (True, True, False)
    steps = (times[1:] - times[:-1])[:, None, None, None]
    torch.testing.assert_close(path.latents[1:], path.latents[:-1] + steps * path.velocities)


def test_bytes_are_truncated_and_clamped_as_in_the_release() -> None:
    pixels = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_bytes(pixels)[0, 0, :, 1].tolist() == [0, 0, 127, 254, 255, 255]
