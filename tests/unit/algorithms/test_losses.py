"""Text and image losses, their diagnostics and their combination."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alphagrpo.algorithms.combine import loss_weights
from alphagrpo.algorithms.image import image_kl, image_loss
from alphagrpo.algorithms.text import text_loss

LEVELS = ["sequence", "token"]


def batch(drift: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(3, 5, generator=generator)
    new = old + drift * torch.randn(3, 5, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).bool()
    return new.requires_grad_(), old, mask, torch.tensor([1.0, -0.8, 0.3])


def test_sequence_loss_is_the_formula():
    new, old, mask, advantages = batch(drift=0.3)
    expected = []
    for i in range(3):
        d = (new[i] - old[i])[mask[i]]
        s = math.exp(d.mean().item())
        clipped = min(max(s, 0.8), 1.28)
        expected.append(-min(s * advantages[i].item(), clipped * advantages[i].item()))
    got = text_loss(new, old, mask, advantages)
    assert got.loss.item() == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_token_loss_is_the_formula():
    new, old, mask, advantages = batch(drift=0.3)
    expected = []
    for i in range(3):
        ratios = (new[i] - old[i])[mask[i]].exp()
        a = advantages[i]
        terms = -torch.minimum(ratios * a, ratios.clamp(0.8, 1.28) * a)
        expected.append(terms.mean().item())
    got = text_loss(new, old, mask, advantages, level="token")
    assert got.loss.item() == pytest.approx(sum(expected) / 3, rel=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_each_sequence_is_pushed_by_its_own_advantage_only(level):
    """The released code multiplies [B] by [B, 1]: every sequence gets the mean advantage."""
    new, old, mask, advantages = batch()
    text_loss(new, old, mask, advantages, level=level).loss.backward()
    per_token = advantages / mask.sum(1) / 3
    assert torch.allclose(new.grad, -per_token[:, None] * mask, atol=1e-7)
    changed = advantages.clone()
    changed[2] = -5.0
    first = new.grad.clone()
    new.grad = None
    text_loss(new, old, mask, changed, level=level).loss.backward()
    assert torch.equal(new.grad[:2], first[:2])
    assert not torch.equal(new.grad[2], first[2])


@pytest.mark.parametrize("level", LEVELS)
def test_a_column_of_advantages_is_refused(level):
    new, old, mask, advantages = batch()
    with pytest.raises(ValueError, match="advantages must be"):
        text_loss(new, old, mask, advantages[:, None], level=level)


@pytest.mark.parametrize("level", LEVELS)
def test_weight_zero_and_masked_places_do_not_matter_even_as_nan(level):
    new, old, mask, advantages = batch(drift=0.1)
    weight = torch.tensor([1.0, 0.0, 1.0])
    clean = text_loss(new[[0, 2]], old[[0, 2]], mask[[0, 2]], advantages[[0, 2]], level=level)
    broken_old = torch.where(mask, old, math.nan)
    broken_old[1] = math.nan
    broken = advantages.clone()
    broken[1] = math.nan
    got = text_loss(new, broken_old, mask, broken, level=level, sample_weight=weight)
    assert torch.allclose(got.loss, clean.loss)
    got.loss.backward()
    assert torch.isfinite(new.grad).all()
    assert torch.equal(new.grad[1], torch.zeros(5))


def test_on_policy_diagnostics_are_neutral():
    new, old, mask, advantages = batch()
    got = text_loss(new, old, mask, advantages)
    assert got.max_abs_log_ratio == 0.0
    assert got.mean_ratio == 1.0
    assert got.clip_share == 0.0


@pytest.mark.parametrize(
    ("shift", "advantage", "clipped"),
    [(0.4, 1.0, True), (0.4, -1.0, False), (-0.4, -1.0, True), (-0.4, 1.0, False)],
)
def test_the_clip_removes_the_gradient_only_where_the_move_went_too_far(shift, advantage, clipped):
    old = torch.zeros(1, 3)
    new = torch.full((1, 3), shift, requires_grad=True)
    got = text_loss(new, old, torch.ones(1, 3).bool(), torch.tensor([advantage]))
    got.loss.backward()
    assert got.clip_share == float(clipped)
    assert (new.grad.abs().max() == 0.0) == clipped
    assert got.max_abs_log_ratio.item() == pytest.approx(0.4)


@pytest.mark.parametrize("level", LEVELS)
def test_kl_is_k3_and_zero_at_the_reference(level):
    new, old, mask, advantages = batch()
    kwargs = {"level": level, "kl_weight": 0.5}
    plain = text_loss(new, old, mask, advantages, level=level)
    at_reference = text_loss(new, old, mask, advantages, ref_log_probs=old, **kwargs)
    assert at_reference.kl == 0.0
    assert torch.equal(at_reference.loss, plain.loss)
    away = text_loss(new, old, mask, advantages, ref_log_probs=old + 0.2, **kwargs)
    k3 = math.exp(0.2) - 0.2 - 1.0
    assert away.kl.item() == pytest.approx(k3, rel=1e-4)
    assert (away.loss - plain.loss).item() == pytest.approx(0.5 * k3, rel=1e-3)
    with pytest.raises(ValueError, match="ref_log_probs"):
        text_loss(new, old, mask, advantages, **kwargs)


@pytest.mark.parametrize("level", LEVELS)
def test_micro_batches_with_the_whole_denominator_add_up(level):
    new, old, mask, advantages = batch(drift=0.2)
    whole = text_loss(new, old, mask, advantages, level=level).loss
    parts = [
        text_loss(
            new[i : i + 1],
            old[i : i + 1],
            mask[i : i + 1],
            advantages[i : i + 1],
            level=level,
            denominator=3.0,
        ).loss
        for i in range(3)
    ]
    assert torch.allclose(sum(parts), whole)


def test_nothing_valid_gives_zero_loss_and_zero_gradient():
    new, old, mask, advantages = batch()
    got = text_loss(new, old, mask, advantages, sample_weight=torch.zeros(3))
    got.loss.backward()
    assert got.loss == 0.0
    assert torch.equal(new.grad, torch.zeros_like(new))
    log_probs = torch.zeros(3, requires_grad=True)
    image = image_loss(log_probs, torch.zeros(3), advantages, sample_weight=torch.zeros(3))
    assert image.loss == 0.0


def test_image_loss_is_the_formula_with_clamped_advantages():
    old = torch.tensor([-0.5, -0.4, -0.6, -0.5])
    new = (old + torch.tensor([0.0, 5e-5, -5e-5, 2e-6])).requires_grad_()
    advantages = torch.tensor([9.0, 2.0, -1.0, 1.0])
    ratio = (new.detach() - old).exp()
    bounded = advantages.clamp(-5, 5)
    expected = -torch.minimum(ratio * bounded, ratio.clamp(1 - 1e-5, 1 + 1e-5) * bounded).mean()
    got = image_loss(new, old, advantages)
    assert torch.allclose(got.loss, expected)
    got.loss.backward()
    assert got.clip_share == 0.5
    assert new.grad[0].item() == pytest.approx(-5.0 / 4)
    assert new.grad[1] == new.grad[2] == 0.0


def test_image_loss_adds_the_kl():
    old = torch.zeros(2)
    kl = torch.tensor([0.2, 0.4], requires_grad=True)
    got = image_loss(old, old, torch.zeros(2), kl=kl, kl_weight=0.1)
    got.loss.backward()
    assert got.loss.item() == pytest.approx(0.03)
    assert got.kl.item() == pytest.approx(0.3)
    assert torch.allclose(kl.grad, torch.full((2,), 0.05))
    with pytest.raises(ValueError, match="needs kl"):
        image_loss(old, old, torch.zeros(2), kl_weight=0.1)


def test_image_kl_leaves_the_step_width_out():
    mean, reference = torch.full((2, 3, 4), 0.5), torch.zeros(2, 3, 4)
    assert torch.allclose(image_kl(mean, reference, 2.0), torch.full((2,), 0.25 / 8.0))


def test_weights_are_those_of_the_paper():
    weights = loss_weights(10, 1.0, thinking=True)
    assert weights.text == pytest.approx(10 / 11)
    assert weights.image == pytest.approx(1 / 11)
    reflective = loss_weights(5, 1 / 5, thinking=True)
    assert reflective.text == pytest.approx(reflective.image)
    assert loss_weights(4, thinking=False).image == 0.25
    with pytest.raises(ValueError, match="at least one"):
        loss_weights(0, thinking=True)
    with pytest.raises(ValueError, match="negative"):
        loss_weights(1, -1.0, thinking=True)


@pytest.mark.parametrize("level", LEVELS)
def test_importance_weights_are_not_on_the_kl_terms(level):
    new, old, mask, advantages = batch(drift=0.3)
    kl = torch.tensor([0.2, 0.4, 0.1])
    image = (torch.zeros(3), torch.tensor([0.1, -0.1, 0.0]), advantages)
    for cap in (None, 1.0):
        plain = text_loss(new, old, mask, advantages, level=level, importance_cap=cap)
        penalty = {"kl_weight": 0.5, "ref_log_probs": old + 0.2}
        held = text_loss(new, old, mask, advantages, level=level, importance_cap=cap, **penalty)
        text_term = (held.loss - plain.loss).item()
        held = image_loss(*image, kl=kl, kl_weight=0.5, importance_cap=cap)
        image_term = (held.loss - image_loss(*image, importance_cap=cap).loss).item()
        if cap is None:
            expected = text_term, image_term
    assert (text_term, image_term) == pytest.approx(expected, rel=1e-4)
    assert image_term == pytest.approx(0.5 * kl.mean().item(), rel=1e-4)


def test_a_ratio_out_of_range_weighs_the_cap():
    log_probs = torch.zeros(2, requires_grad=True)
    got = image_loss(log_probs, torch.tensor([-200.0, 0.0]), torch.ones(2), importance_cap=2.0)
    got.loss.backward()
    assert torch.equal(log_probs.grad, torch.tensor([-1.0, -0.5]))
    assert (got.capped_share, got.mean_weight, got.clip_share) == (0.5, 1.5, 0.0)
