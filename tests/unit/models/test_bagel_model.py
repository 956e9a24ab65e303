from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.unified import ALL_LAYERS, Context, UnifiedModel, pack

GRID = (2, 3)


def ids(*rows: list[int]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)
    return padded, lengths


def read(model: Bagel, *rows: list[int]) -> tuple[Context, Tensor]:
    return model.read_text(model.empty_context(len(rows)), *ids(*rows))


def latents(model: Bagel, batch: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, GRID[0] * GRID[1], model.latent_channels, generator=generator)


def pixels(batch: int, height: int = 32, width: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(batch, 3, height, width, generator=generator) * 2 - 1


def test_implements_the_protocol(model: Bagel) -> None:
    assert isinstance(model, UnifiedModel)
    assert model.pixels_per_token == 16
    assert model.latent_channels == 16


@torch.no_grad()
def test_padded_batch_equals_single_sequences(model: Bagel) -> None:
    rows = [[1, 7, 8, 9, 2], [1, 5, 2], [1, 11, 12, 2]]
    context, hidden = read(model, *rows)
    context, more = model.read_text(context, *ids([1, 6, 2], [1, 14, 15, 16, 2], [1, 2]))
    x, t = latents(model, 3), torch.tensor([0.9, 0.5, 0.1])
    together = model.velocity(context, x, t, GRID)
    seconds = [[1, 6, 2], [1, 14, 15, 16, 2], [1, 2]]
    for i, (row, second) in enumerate(zip(rows, seconds, strict=True)):
        one, own = read(model, row)
        one, own_more = model.read_text(one, *ids(second))
        torch.testing.assert_close(hidden[i, : len(row)], own[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(more[i, : len(second)], own_more[0], atol=1e-5, rtol=1e-5)
        alone = model.velocity(one, x[i : i + 1], t[i : i + 1], GRID)
        torch.testing.assert_close(together[i], alone[0], atol=1e-5, rtol=1e-5)
        assert int(context.position[i]) == len(row) + len(second)


@torch.no_grad()
def test_a_row_of_length_zero_reads_nothing_and_stays_finite(model: Bagel) -> None:
    token_ids, _ = ids([1, 7, 2], [0, 0, 0])
    context, _ = model.read_text(model.empty_context(2), token_ids, torch.tensor([3, 0]))
    v = model.velocity(context, latents(model, 2), torch.ones(2), GRID)
    alone = model.velocity(model.empty_context(1), latents(model, 2)[1:], torch.ones(1), GRID)
    assert torch.isfinite(v).all()
    torch.testing.assert_close(v[1], alone[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_packed_guidance_branches_equal_separate_calls(model: Bagel) -> None:
    full, _ = read(model, [1, 7, 8, 9, 2], [1, 5, 6, 2])
    system, _ = read(model, [1, 7, 2], [1, 5, 2])
    branches = [full, system, model.empty_context(2)]
    x, t = latents(model, 2), torch.tensor([0.7, 0.7])
    packed = model.velocity(pack(branches), x.repeat(3, 1, 1), t.repeat(3), GRID)
    for got, context in zip(packed.chunk(3), branches, strict=True):
        want = model.velocity(context, x, t, GRID)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_incremental_decoding_equals_one_read(model: Bagel) -> None:
    row = [1, 7, 8, 9, 10, 2]
    _, whole = read(model, row)
    context = model.empty_context(1)
    for i, token in enumerate(row):
        context, hidden = model.read_text(context, *ids([token]))
        torch.testing.assert_close(hidden[0, 0], whole[0, i], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_image_takes_one_position_and_its_tokens_are_cached(model: Bagel) -> None:
    context, _ = read(model, [1, 7, 2])
    seen = model.read_latents(context, latents(model, 1), GRID)
    assert seen.position.tolist() == [4]
    assert seen.length == 3 + 6 + 2
    seen = model.read_pixels(seen, pixels(1))
    assert seen.position.tolist() == [5]
    assert seen.length == 3 + 8 + 4 * 2 + 2
    assert context.length == 3


@torch.no_grad()
def test_a_shared_context_is_expanded_for_the_group(model: Bagel) -> None:
    context, _ = read(model, [1, 7, 8, 2])
    context = model.read_pixels(context, pixels(1))
    x, t = latents(model, 3), torch.tensor([1.0, 0.6, 0.2])
    group = model.velocity(context.expand(3), x, t, GRID)
    for i in range(3):
        alone = model.velocity(context, x[i : i + 1], t[i : i + 1], GRID)
        torch.testing.assert_close(group[i], alone[0], atol=1e-5, rtol=1e-5)


def test_velocity_has_the_same_bits_with_and_without_gradient(model: Bagel) -> None:
    with torch.no_grad():
        context, _ = read(model, [1, 7, 8, 9, 2], [1, 5, 2])
        packed = pack([context, model.empty_context(2)])
        x, t = latents(model, 4), torch.full((4,), 0.8)
        first = model.velocity(packed, x, t, GRID)
        second = model.velocity(packed, x, t, GRID)
    third = model.velocity(packed, x, t, GRID)
    assert third.requires_grad
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_text_reading_has_the_same_bits_with_and_without_gradient(model: Bagel) -> None:
    with torch.no_grad():
        _, first = read(model, [1, 7, 8, 9, 2], [1, 5, 2])
    _, second = read(model, [1, 7, 8, 9, 2], [1, 5, 2])
    assert torch.equal(model.text_logits(first), model.text_logits(second))


def test_gradient_flows_through_the_context_unless_detached(model: Bagel) -> None:
    def gradient(detach: bool) -> Tensor | None:
        model.zero_grad(set_to_none=True)
        context, _ = read(model, [1, 7, 8, 2])
        context = context.detach() if detach else context
        model.velocity(context, latents(model, 1), torch.tensor([0.5]), GRID).sum().backward()
        return model.language_model.model.embed_tokens.weight.grad

    attached = gradient(detach=False)
    assert attached is not None
    assert attached[7].abs().sum() > 0
    constant = gradient(detach=True)
    assert constant is not None
    # Only the two markers of the image query are left.
    touched = constant.abs().sum(dim=1).nonzero().flatten().tolist()
    assert touched == [model.special.image_start, model.special.image_end]


@pytest.mark.parametrize("layers", [1, 2, ALL_LAYERS])
def test_recomputing_layers_gives_the_same_gradient(model: Bagel, layers: int) -> None:
    def gradients() -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        context, hidden = read(model, [1, 7, 8, 2])
        v = model.velocity(context, latents(model, 1), torch.tensor([0.5]), GRID)
        (v.square().sum() + hidden.square().sum()).backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    kept = gradients()
    model.set_recompute(layers)
    again = gradients()
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_the_hand_written_norm_has_the_gradient_of_its_formula(model: Bagel) -> None:
    from alphagrpo.models.bagel.norm import RmsNorm

    norm = RmsNorm(6, 1e-6)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 4, 6, requires_grad=True)
    upstream = torch.randn(3, 4, 6)
    norm(x).backward(upstream)
    got = x.grad, norm.weight.grad
    y = torch.nn.functional.rms_norm(x, (6,), norm.weight, 1e-6)
    want = torch.autograd.grad(y, (x, norm.weight), upstream)
    torch.testing.assert_close(got, want)


@torch.no_grad()
def test_both_attention_kernels_agree(model: Bagel) -> None:
    def run() -> Tensor:
        context, _ = read(model, [1, 7, 8, 9, 2], [1, 5, 2])
        context = model.read_pixels(context, pixels(2))
        return model.velocity(context, latents(model, 2), torch.ones(2), GRID)

    plain = run()
    kernels = [m for m in model.modules() if hasattr(m, "kernel")]
    assert len(kernels) > 1, "decoder and vision transformer"
    for module in kernels:
        module.kernel = "efficient"
    torch.testing.assert_close(run(), plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_latents_and_pixels_have_matching_shapes(model: Bagel) -> None:
    picture = pixels(2, 32, 48)
    tokens = model.encode_pixels(picture)
    assert tokens.shape == (2, 6, model.latent_channels)
    assert model.decode_latents(tokens, (2, 3)).shape == picture.shape
    flat = model.latents_to_tokens(model.tokens_to_latents(tokens, (2, 3)))
    assert torch.equal(flat, tokens)


@torch.no_grad()
def test_bfloat16_autocast_stays_near_float32_and_heads_are_float32(model: Bagel) -> None:
    context, hidden = read(model, [1, 7, 8, 9, 2])
    want = model.velocity(context, latents(model, 1), torch.ones(1), GRID)
    with torch.autocast("cpu", torch.bfloat16):
        context, low = read(model, [1, 7, 8, 9, 2])
        got = model.velocity(context, latents(model, 1), torch.ones(1), GRID)
        assert model.text_logits(low).dtype == torch.float32
    assert got.dtype == torch.float32
    assert context.keys[0].dtype == torch.bfloat16
    assert (got - want).norm() < 0.05 * want.norm()
    assert (low.float() - hidden).norm() < 0.05 * hidden.norm()


def test_state_dict_leaves_the_autoencoder_out(model: Bagel) -> None:
    assert not [name for name in model.state_dict() if "autoencoder" in name or "kl" in name]
    assert not any(p.requires_grad for p in model.autoencoder.parameters())
    moved = model.to(torch.float64)
    assert next(moved.autoencoder.parameters()).dtype == torch.float32
