from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.bagel.packed import (
    LatentPiece,
    TextPiece,
    VisionPiece,
    build_pack,
    split_mask,
)
from alphagrpo.models.bagel.resize import ResizeRule
from alphagrpo.models.bagel.training import encode_padded, training_forward


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, height, width, generator=generator) * 2 - 1


def test_a_noise_split_is_bidirectional_and_invisible_to_others() -> None:
    mask = split_mask([2, 2, 1], ["full", "noise", "causal"]).int().tolist()
    assert mask == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_packed_forward_equals_reading_and_velocity(model: Bagel) -> None:
    target, seen = picture(32, 16, 1), picture(16, 24, 2)
    raw = 0.4
    text = TextPiece((7, 8, 9), loss=True)
    pieces = [VisionPiece(seen), text, LatentPiece(target, raw_time=raw)]
    pack = build_pack(model, [pieces, [TextPiece((5, 6))]])
    noise = torch.randn(2, model.latent_channels, generator=torch.Generator().manual_seed(4))
    out = training_forward(model, pack, flow_noise=noise)

    context = model.read_pixels(model.empty_context(1), seen[None])
    ids = torch.tensor([[1, 7, 8, 9, 2]])
    context, hidden = model.read_text(context, ids, torch.tensor([5]))
    t = torch.sigmoid(torch.tensor([raw]))
    clean = model.encode_pixels(target[None])
    v = model.velocity(context, (1 - t) * clean + t * noise[None], t, (2, 1))
    want = (v - (noise - clean)).square()[0]
    torch.testing.assert_close(out.mse_elements, want, atol=1e-4, rtol=1e-4)
    logits = model.text_logits(hidden[0, :4])
    ce = torch.nn.functional.cross_entropy(logits, torch.tensor([7, 8, 9, 2]), reduction="none")
    torch.testing.assert_close(out.ce_per_token, ce, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.loss, ce.mean() + want.mean(), atol=1e-4, rtol=1e-4)


def test_a_clean_picture_moves_the_position_and_a_noised_one_does_not(model: Bagel) -> None:
    pieces = [
        LatentPiece(picture(16, 16), raw_time=0.0),
        LatentPiece(picture(16, 16)),
        TextPiece((7,)),
    ]
    pack = build_pack(model, [pieces])
    assert pack.position_ids == [0, 0, 0, 0, 0, 0, 1, 2, 3]
    assert pack.attn_modes == ["noise", "full", "causal"]
    assert pack.mse_loss_indexes == [1]


def test_text_alone_has_no_picture_loss(model: Bagel) -> None:
    pack = build_pack(model, [[TextPiece((7, 8), loss=True)]])
    out = training_forward(model, pack, flow_noise=torch.zeros(0, model.latent_channels))
    assert out.mse_loss.item() == 0.0
    out.loss.backward()
    assert model.language_model.lm_head.weight.grad is not None


@torch.no_grad()
def test_pictures_are_padded_to_the_largest(model: Bagel) -> None:
    small, large = picture(16, 32), picture(48, 16)
    latents = encode_padded(model, [small, large])
    assert latents.shape[-2:] == (6, 4)
    by_hand = torch.zeros(1, 3, 48, 32)
    by_hand[0, :, :16] = small
    torch.testing.assert_close(latents[:1], model.autoencoder.encode(by_hand), atol=1e-5, rtol=1e-5)


# The released transforms, before the autoencoder and before the vision transformer.
VAE_RULE = ResizeRule(max_size=1024, min_size=512, stride=16)
VIT_RULE = ResizeRule(max_size=980, min_size=224, stride=14)


@pytest.mark.parametrize(
    ("rule", "size", "want"),
    [
        (VAE_RULE, (512, 512), (512, 512)),
        (VAE_RULE, (2048, 1024), (1024, 512)),
        (VAE_RULE, (100, 300), (336, 1024)),
        (VIT_RULE, (512, 512), (518, 518)),
        (ResizeRule(max_size=64, min_size=16, stride=16), (5, 1000), (16, 64)),
    ],
)
def test_resize_rule(rule: ResizeRule, size: tuple[int, int], want: tuple[int, int]) -> None:
    assert rule.size(*size) == want


def test_resize_rule_refuses_an_empty_picture() -> None:
    with pytest.raises(ValueError, match="positive sides, got 0x5"):
        VAE_RULE.size(0, 5)
