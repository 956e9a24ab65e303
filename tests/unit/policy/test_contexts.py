"""What is read before a thought and a picture, against reading it piece by piece by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.unified import Context
from alphagrpo.policy.contexts import (
    Branches,
    ImageConditions,
    Prefix,
    read_prefix,
    read_thoughts,
)
from tests.fakes import make_model

GRID = (1, 2)
SYSTEM, PROMPT = np.array([9, 10, 11]), np.array([20, 21])


@pytest.fixture(scope="module")
def model() -> Bagel:
    return make_model(seed=1).requires_grad_(False)


def pictures(model: Bagel, count: int = 1) -> ImageConditions:
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn(count, 2, model.latent_channels, generator=generator)
    levels = torch.randint(0, 256, (count, 16, 32, 3), generator=generator, dtype=torch.uint8)
    return ImageConditions(latents, levels.numpy(), GRID)


def text(model: Bagel, context: Context, ids: np.ndarray) -> Context:
    framed = torch.tensor([[model.special.text_start, *ids.tolist(), model.special.text_end]])
    return model.read_text(context, framed, torch.tensor([framed.shape[1]]))[0]


def picture(model: Bagel, context: Context, conditions: ImageConditions) -> Context:
    context = model.read_latents(context, conditions.latents, GRID)
    return model.read_pixels(context, model.vision_pixels(conditions.pixels))


def check(context: Context | None, expected: Context) -> None:
    assert context is not None
    assert torch.equal(context.mask, expected.mask)
    assert torch.equal(context.position, expected.position)
    tensors = zip((*context.keys, *context.values), (*expected.keys, *expected.values), strict=True)
    for tensor, other in tensors:
        torch.testing.assert_close(tensor, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("system", [SYSTEM, None])
def test_without_a_picture_the_system_prompt_alone_is_free_of_text(
    model: Bagel, system: np.ndarray | None
) -> None:
    prefix = read_prefix(model, system, [PROMPT])
    empty = model.empty_context(1)
    shared = empty if system is None else text(model, empty, system)
    check(prefix.text_free, shared)
    check(prefix.full, text(model, shared, PROMPT))
    assert prefix.image_free is None
    assert prefix.text_free.length == (0 if system is None else 5)


@pytest.mark.parametrize("system", [SYSTEM, None])
def test_a_picture_stands_between_system_prompt_and_request(
    model: Bagel, system: np.ndarray | None
) -> None:
    """The text-free branch keeps the picture, the image-free one keeps the text."""
    conditions = pictures(model)
    prefix = read_prefix(model, system, [PROMPT], conditions, image_branch=True)
    empty = model.empty_context(1)
    shared = empty if system is None else text(model, empty, system)
    seen = picture(model, shared, conditions)
    check(prefix.text_free, seen)
    check(prefix.full, text(model, seen, PROMPT))
    check(prefix.image_free, text(model, shared, PROMPT))
    assert read_prefix(model, system, [PROMPT], conditions).image_free is None


def test_each_of_several_prompts_has_its_own_picture(model: Bagel) -> None:
    conditions = pictures(model, 3)
    prompts = [PROMPT, np.array([22]), np.array([23, 24, 25])]
    prefix = read_prefix(model, SYSTEM, prompts, conditions, image_branch=True)
    assert prefix.image_free is not None
    assert [c.batch for c in (prefix.full, prefix.text_free, prefix.image_free)] == [3, 3, 3]
    x, t = noise(model, 1), torch.tensor([0.6])
    for i, prompt in enumerate(prompts):
        own = ImageConditions(conditions.latents[i : i + 1], conditions.pixels[i : i + 1], GRID)
        alone = read_prefix(model, SYSTEM, [prompt], own, image_branch=True)
        row = torch.tensor([i])
        for name in ("full", "text_free", "image_free"):
            together = model.velocity(getattr(prefix, name).rows(row), x, t, GRID)
            expected = model.velocity(getattr(alone, name), x, t, GRID)
            torch.testing.assert_close(together, expected, atol=1e-5, rtol=1e-4)


def noise(model: Bagel, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(batch, 2, model.latent_channels, generator=generator)


def test_a_prefix_is_expanded_with_all_its_branches_and_copied_in_none(model: Bagel) -> None:
    prefix = read_prefix(model, SYSTEM, [PROMPT], pictures(model), image_branch=True)
    group = prefix.expand(4)
    for name in ("full", "text_free", "image_free"):
        one, many = getattr(prefix, name), getattr(group, name)
        assert many.batch == 4
        assert many.position.tolist() == one.position.tolist() * 4
        check(many.rows(torch.tensor([3])), one)
        assert [k.data_ptr() for k in many.keys] == [k.data_ptr() for k in one.keys]
    assert read_prefix(model, SYSTEM, [PROMPT]).expand(2).image_free is None
    with pytest.raises(ValueError, match=r"only a context of one sequence .* this one has 4"):
        group.expand(8)


# -- thoughts


def test_entropy_is_of_the_distribution_each_id_was_sampled_from() -> None:
    """A cut thought is closed by an end id that is read, not scored."""
    model = make_model(seed=2)
    prefix = read_prefix(model, SYSTEM, [PROMPT])
    thoughts = [np.array([20, 21, 2]), np.array([23, 24, 25, 26])]
    read = read_thoughts(model, prefix.expand(2).full, thoughts, [True, False])
    assert read.mask.int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    assert read.context.position.tolist() == [9 + 4, 9 + 6]
    assert read.log_probs.requires_grad
    assert not read.entropy.requires_grad
    for i, ids in enumerate(thoughts):
        sequence = torch.tensor([[1, *ids[:-1].tolist()]])
        _, hidden = model.read_text(prefix.full, sequence, torch.tensor([len(ids)]))
        spread = torch.distributions.Categorical(logits=model.text_logits(hidden[0]))
        torch.testing.assert_close(read.entropy[i, : len(ids)], spread.entropy().detach())
        scores = spread.log_prob(torch.from_numpy(ids))
        torch.testing.assert_close(read.log_probs[i, : len(ids)], scores, atol=1e-5, rtol=1e-5)
    assert not read.entropy[~read.mask].any()
    assert not read.log_probs[~read.mask].any()


# -- guidance branches


def branches_of(model: Bagel) -> tuple[Prefix, Branches]:
    """Two samples, whose thoughts differ, after one picture."""
    prefix = read_prefix(model, SYSTEM, [PROMPT], pictures(model), image_branch=True).expand(2)
    thoughts = [np.array([30, 31, 2]), np.array([32, 2])]
    read = read_thoughts(model, prefix.full, thoughts, [True, True])
    return prefix, Branches.after(prefix, read.context)


def test_branches_are_packed_in_the_order_of_guidance_once_per_number(model: Bagel) -> None:
    prefix, branches = branches_of(model)
    conditional, text_free, image_free = branches.contexts
    check(text_free, prefix.text_free)
    assert prefix.image_free is not None
    check(image_free, prefix.image_free)
    assert branches.packed(1) is conditional
    two, three = branches.packed(2), branches.packed(3)
    assert (two.batch, three.batch) == (4, 6)
    assert two.position.tolist() == [*conditional.position, *text_free.position]
    assert three.position.tolist() == [*two.position, *image_free.position]
    assert branches.packed(2) is two
    assert branches.packed(3) is three


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_forward_gives_every_branch_its_own_velocities(model: Bagel, count: int) -> None:
    _, branches = branches_of(model)
    x, t = noise(model, 2), 0.55
    velocities = branches.velocities(model, x, t, GRID, count)
    assert len(velocities) == count
    for velocity, context in zip(velocities, branches.contexts, strict=False):
        expected = model.velocity(context, x, torch.tensor([t, t]), GRID)
        torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=1e-4)
