"""Packed training rows: several samples apart from one another, and each loss as it is defined."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alphagrpo.models.bagel.decoder import Layer
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.bagel.packed import (
    LatentPiece,
    Pack,
    TextPiece,
    VisionPiece,
    build_pack,
)
from alphagrpo.models.bagel.resize import ResizeRule
from alphagrpo.models.bagel.training import encode_padded, training_forward
from alphagrpo.models.unified import ALL_LAYERS


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, height, width, generator=generator) * 2 - 1


def noise_of(model: Bagel, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(tokens, model.latent_channels, generator=generator)


def samples(model: Bagel) -> tuple[Pack, Pack, Pack]:
    """Two samples in one pack, and each in a pack of its own."""
    first = [TextPiece((7, 8, 9), loss=True), LatentPiece(picture(32, 16, 1), raw_time=0.4)]
    second = [
        LatentPiece(picture(16, 48, 2)),
        VisionPiece(picture(16, 24, 3)),
        TextPiece((5,), loss=True),
        LatentPiece(picture(32, 32, 4), raw_time=-1.2),
    ]
    return build_pack(model, [first, second]), *(build_pack(model, [s]) for s in (first, second))


def test_ids_of_a_packed_row(model: Bagel) -> None:
    pack = samples(model)[0]
    assert pack.text_ids == [1, 7, 8, 9, 2, 3, 4, 3, 4, 3, 4, 1, 5, 2, 3, 4]
    assert pack.sample_lens == [5 + 4, 5 + 8 + 3 + 6]
    assert pack.splits_per_sample == [2, 4]
    assert pack.position_ids[9:] == [0] * 5 + [1] * 8 + [2, 3, 4] + [5] * 6
    # Tables of 6 x 6: rows are six apart, however wide the picture is.
    assert pack.latent_position_ids == [0, 6, 0, 1, 2, 0, 1, 6, 7]
    assert pack.vit_position_ids == [0, 1, 2, 6, 7, 8]
    assert pack.vit_token_seqlens == [6]
    assert pack.ce_loss_indexes == [0, 1, 2, 3, 22, 23]
    assert pack.label_ids == [7, 8, 9, 2, 5, 2]
    assert pack.mse_loss_indexes == [6, 7, 26, 27, 28, 29]
    assert pack.timesteps == [0.4] * 2 + [float("-inf")] * 3 + [-1.2] * 4
    torch.testing.assert_close(
        torch.tensor(pack.ce_loss_weights), torch.tensor([0.5] * 4 + [2**-0.5] * 2)
    )


def test_masks_are_of_each_sample(model: Bagel) -> None:
    first, second = samples(model)[0].masks()
    assert (first.shape, second.shape) == ((9, 9), (22, 22))
    assert not first[:5, 5:].any(), "text sees no noise"
    assert first[5:].all()
    assert second[:5, :5].all()
    assert not second[:5, 5:].any(), "a clean picture sees what is before it"
    assert second[13].int().tolist() == [1] * 14 + [0] * 8


@torch.no_grad()
def test_samples_of_one_row_do_not_see_one_another(model: Bagel) -> None:
    both, first, second = samples(model)
    noise = noise_of(model, 9)
    latents = encode_padded(model, both.vae_pixels)
    out = training_forward(model, both, flow_noise=noise, latents=latents)
    one = training_forward(model, first, flow_noise=noise[:2], latents=latents[:1])
    two = training_forward(model, second, flow_noise=noise[2:], latents=latents[1:])
    for name in ("hidden", "ce_per_token", "mse_elements", "ce_weights"):
        alone = torch.cat([getattr(one, name), getattr(two, name)])
        torch.testing.assert_close(getattr(out, name), alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("shift", [None, 3.0])
def test_the_second_picture_has_its_own_crop_noise_and_shifted_time(
    model: Bagel, shift: float | None
) -> None:
    """Velocity error against reading the sample piece by piece."""
    both = samples(model)[0]
    noise, latents = noise_of(model, 9), encode_padded(model, both.vae_pixels)
    object.__setattr__(model.config, "training_timestep_shift", 2.0)
    out = training_forward(model, both, flow_noise=noise, latents=latents, shift=shift)
    given = model.latents_to_tokens(latents[1:2, :, :2, :6])
    context = model.read_latents(model.empty_context(1), given, (1, 3))
    context = model.read_pixels(context, picture(16, 24, 3)[None])
    context, _ = model.read_text(context, torch.tensor([[1, 5, 2]]), torch.tensor([3]))
    clean = model.latents_to_tokens(latents[2:, :, :4, :4])
    raw = torch.tensor([-1.2]).sigmoid()
    factor = shift or 2.0
    t = factor * raw / (1 + (factor - 1) * raw)
    mixed = (1 - t) * clean + t * noise[None, 5:]
    velocity = model.velocity(context, mixed, t, (2, 2))
    expected = (velocity - (noise[None, 5:] - clean)).square()[0]
    torch.testing.assert_close(out.mse_elements[2:], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_losses_are_their_means(model: Bagel) -> None:
    both = samples(model)[0]
    out = training_forward(model, both, flow_noise=noise_of(model, 9))
    logits = model.text_logits(out.hidden[[0, 1, 2, 3, 22, 23]])
    ce = functional.cross_entropy(logits, torch.tensor([7, 8, 9, 2, 5, 2]), reduction="none")
    torch.testing.assert_close(out.ce_loss, ce.mean())
    # A text counts as much as the root of its length.
    weighted = (2 * ce[:4].mean() + 2**0.5 * ce[4:].mean()) / (2 + 2**0.5)
    torch.testing.assert_close(out.ce_loss_reweighted, weighted)
    assert out.mse_elements.shape == (6, model.latent_channels)
    torch.testing.assert_close(out.mse_loss, out.mse_elements.mean())
    torch.testing.assert_close(out.loss, ce.mean() + out.mse_elements.mean())


@torch.no_grad()
def test_padded_pictures_are_samples_of_the_posterior_with_noise(model: Bagel) -> None:
    pictures = [picture(16, 16), picture(16, 16, 1)]
    noise = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(5))
    sampled = encode_padded(model, pictures, noise)
    mean, log_variance = model.autoencoder.moments(torch.stack(pictures)).chunk(2, dim=1)
    expected = 0.3611 * (mean + (log_variance / 2).exp() * noise - 0.1159)
    torch.testing.assert_close(sampled, expected)


@pytest.mark.parametrize(("number", "runs"), [(0, [1, 1]), (1, [2, 1]), (ALL_LAYERS, [2, 2])])
def test_the_first_layers_are_run_again_on_the_way_back(
    model: Bagel, monkeypatch: pytest.MonkeyPatch, number: int, runs: list[int]
) -> None:
    calls: list[Layer] = []
    forward = Layer.forward

    def counted(layer: Layer, *arguments: Any) -> Any:
        calls.append(layer)
        return forward(layer, *arguments)

    monkeypatch.setattr(Layer, "forward", counted)
    model.set_recompute(number)
    pack = build_pack(model, [[TextPiece((7, 8), loss=True)]])
    out = training_forward(model, pack, flow_noise=noise_of(model, 0))
    out.loss.backward()
    assert [calls.count(layer) for layer in model.language_model.model.layers] == runs


@pytest.mark.parametrize(
    ("rule", "size", "resized"),
    [
        # 1024 x 1024 is 16 times the area allowed: both sides are divided by 16, not by 4.
        (ResizeRule(max_size=1024, min_size=16, stride=16, max_pixels=256**2), (1024, 1024),
         (64, 64)),
        # The short side's minimum makes the long one 3200, which the last rule cuts to 320.
        (ResizeRule(max_size=320, min_size=160, stride=16), (2000, 100), (320, 16)),
        (ResizeRule(max_size=64, min_size=16, stride=16), (6400, 64), (64, 16)),
        (ResizeRule(max_size=64, min_size=1, stride=8), (3, 30), (8, 32)),
    ],
)  # fmt: skip
def test_a_picture_over_a_bound_is_scaled_by_the_rule(
    rule: ResizeRule, size: tuple[int, int], resized: tuple[int, int]
) -> None:
    assert rule.size(*size) == resized


@pytest.mark.parametrize("bound", ["max_size", "min_size", "stride", "max_pixels"])
def test_a_rule_without_a_bound_is_refused(bound: str) -> None:
    with pytest.raises(ValueError, match=f"must be positive, got .*{bound}=0"):
        ResizeRule(**{"max_size": 8, "min_size": 8, "stride": 8, "max_pixels": 64, bound: 0})
