"""A batch's random keys, rows and bytes: each sequence keeps its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from alphagrpo.config.sampling import FlowConfig, SamplingParams
from alphagrpo.flow import Window
from alphagrpo.kernels import START_STEP, gaussian_noise
from alphagrpo.kernels.philox import philox, uniform
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.policy.contexts import Branches, Prefix, read_prefix, read_thoughts
from alphagrpo.policy.denoising import FlowPlan, Path, denoise
from alphagrpo.policy.drawing import (
    GeneratedBatch,
    RandomKeys,
    ThoughtSettings,
    decode,
    draw_batch,
)
from alphagrpo.policy.thinking import Thought, think, uniforms
from tests.fakes import make_model

GRID = (2, 2)
FLOW = FlowConfig(num_points=5, window={"length": 2, "allowed": (1, 4)})
PLAN = FlowPlan.for_training(FLOW, Window(1, 2), guided=True)
SAMPLING = SamplingParams(temperature=1.0, top_p=1.0)


@pytest.fixture(scope="module")
def model() -> Bagel:
    return make_model(seed=2).requires_grad_(False)


@pytest.fixture
def terse(model: Bagel, monkeypatch: pytest.MonkeyPatch) -> Bagel:
    """The model with likelier end ids: thoughts of all lengths."""
    logits, likelier = model.text_logits, torch.zeros(40)
    likelier[model.special.text_end] = 3.0
    monkeypatch.setattr(model, "text_logits", lambda hidden: logits(hidden) + likelier)
    return model


def prefix_of(model: Bagel, batch: int) -> Prefix:
    return read_prefix(model, np.array([9, 10]), [np.array([20, 21])]).expand(batch)


def thoughts_of(model: Bagel, seeds: list[int], samples: list[int], most: int) -> list[Thought]:
    return think(
        model,
        prefix_of(model, len(seeds)).full,
        seeds=seeds,
        samples=samples,
        sampling=SAMPLING,
        max_tokens=most,
    )


def test_thoughts_that_end_early_leave_the_others_as_they_are(terse: Bagel) -> None:
    """Rows of finished thoughts are dropped on the way, more than once."""
    seeds, samples = [11, 12, 13, 14, 15, 16, 17, 18], [0, 1, 2, 3, 4, 5, 6, 7]
    together = thoughts_of(terse, seeds, samples, 40)
    lengths = sorted(len(thought.ids) for thought in together)
    assert lengths[3] < lengths[5] < lengths[-1], "half must end before the next do"
    for i, thought in enumerate(together):
        (alone,) = thoughts_of(terse, seeds[i : i + 1], samples[i : i + 1], 40)
        assert thought.ids.tolist() == alone.ids.tolist()
        assert thought.finished == alone.finished


def test_a_thought_ends_with_its_end_id_or_at_the_limit(terse: Bagel) -> None:
    seeds, samples = list(range(30, 42)), list(range(12))
    whole, cut = (thoughts_of(terse, seeds, samples, most) for most in (40, 3))
    assert {thought.finished for thought in cut} == {True, False}
    for full, short in zip(whole, cut, strict=True):
        assert short.ids.tolist() == full.ids[:3].tolist(), "the limit changes nothing before it"
        assert short.finished == (len(full.ids) <= 3 and full.finished)
        assert short.finished == (short.ids[-1] == terse.special.text_end)


def test_a_cold_temperature_sharpens_and_a_small_nucleus_keeps_the_likeliest(model: Bagel) -> None:
    def first_ids(sampling: SamplingParams) -> list[int]:
        seeds, context = list(range(64)), prefix_of(model, 64).full
        thoughts = think(
            model, context, seeds=seeds, samples=[0] * 64, sampling=sampling, max_tokens=1
        )
        return [int(thought.ids[0]) for thought in thoughts]

    free, cold = (len(set(first_ids(SamplingParams(temperature=t, top_p=1.0)))) for t in (1.0, 0.2))
    assert cold < free
    (greedy,) = set(first_ids(SamplingParams(temperature=0.0, top_p=1.0)))
    assert set(first_ids(SamplingParams(temperature=1.0, top_p=1e-6))) == {greedy}


def test_no_number_of_a_thought_is_one_of_the_pictures_noise() -> None:
    """Noise is made of the words whose last counter is 0."""
    counters = [torch.arange(6)[None], torch.tensor([[0]])]
    counters += [torch.zeros(1, 1, dtype=torch.int64)] * 2
    words, _ = philox(torch.tensor([[8]]), tuple(counters))
    assert not set(uniform(words).flatten().tolist()) & set(uniforms([8], [0], 6)[0].tolist())


@pytest.mark.parametrize("batch", [1, 4, 9])
def test_pictures_decoded_in_parts_are_those_of_the_whole_batch(model: Bagel, batch: int) -> None:
    generator = torch.Generator().manual_seed(batch)
    latents = torch.randn(batch, 4, model.latent_channels, generator=generator)
    seen: list[int] = []
    whole = model.decode_latents

    class Recording:
        """The model, which remembers how many pictures it was given at once."""

        def decode_latents(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
            seen.append(len(latents))
            return whole(latents, grid)

    pixels = decode(Recording(), latents, GRID)
    assert seen == {1: [1], 4: [4], 9: [4, 4, 1]}[batch]
    levels = ((whole(latents, GRID).clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)
    assert np.array_equal(pixels, levels.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("thinking", [None, ThoughtSettings(SAMPLING, 5)])
def test_a_batch_thinks_and_draws_with_the_keys_it_is_given(
    model: Bagel, thinking: ThoughtSettings | None
) -> None:
    keys = RandomKeys(thoughts=[1, 2, 3], noise=[7, 7, 8], samples=[0, 1, 4], starts=[0, 5, 0])
    prefix = prefix_of(model, 3)
    batch = draw_batch(model, prefix, PLAN, keys, GRID, thinking)
    conditional = prefix.full
    if thinking is not None:
        thoughts = thoughts_of(model, [1, 2, 3], [0, 1, 4], 5)
        assert [t.ids.tolist() for t in batch.thoughts] == [t.ids.tolist() for t in thoughts]
        ids, finished = [t.ids for t in thoughts], [t.finished for t in thoughts]
        read = read_thoughts(model, prefix.full, ids, finished)
        conditional = read.context
        assert batch.log_probs is not None
        assert torch.equal(batch.log_probs, read.log_probs)
    words = (torch.tensor([7, 7, 8]), torch.tensor([0, 5, 0]))
    x = gaussian_noise(*words, START_STEP, (4, model.latent_channels))
    branches = Branches.of(conditional, prefix.text_free)
    path = denoise(model, branches, PLAN, x, GRID, seeds=[7, 7, 8], samples=[0, 1, 4])
    assert torch.equal(batch.path.final, path.final)
    assert path.latents is not None
    assert torch.equal(batch.path.latents, path.latents)
    assert np.array_equal(batch.pixels, decode(model, path.final, GRID))


def numbered(*shape: int) -> Tensor:
    return torch.arange(float(np.prod(shape))).view(shape)


def test_segments_hold_the_rows_of_their_own_sequence() -> None:
    thoughts = [Thought(np.array([5, 2]), True), Thought(np.array([6, 7, 8]), False)]
    path = Path(final=numbered(2, 4, 3), latents=numbered(2, 3, 4, 3), log_probs=numbered(2, 2))
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    batch = GeneratedBatch(thoughts, -1 - numbered(2, 5), path, pixels)
    (one,), (two,) = batch.text_segments()
    assert (one.token_ids.tolist(), one.log_probs.tolist(), one.finished) == (
        [5, 2],
        [-1, -2],
        True,
    )
    assert two.log_probs.tolist() == [-6, -7, -8]
    assert not two.finished
    for i, image in enumerate(batch.image_segments(Window(4, 2), seed=77)):
        assert (image.window_start, image.noise_seed) == (4, 77)
        assert np.array_equal(image.final_latents, path.final[i].numpy())
        assert np.array_equal(image.latents, path.latents[i].numpy())
        assert np.array_equal(image.log_probs, path.log_probs[i].numpy())
        assert np.array_equal(image.pixels, pixels[i])
    silent = GeneratedBatch([], None, path, pixels)
    assert silent.text_segments() == [(), ()]


def test_pictures_are_rounded_to_bytes_and_clamped(
    model: Bagel, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = torch.tensor([-3.0, -1.0, -0.996, 0.0, 0.997, 1.0, 1.02, 9.0])
    picture = levels.view(1, 1, 1, 8) * torch.tensor([1.0, -1.0, 1.0]).view(1, 3, 1, 1)
    monkeypatch.setattr(model, "decode_latents", lambda latents, grid: picture)
    pixels = decode(model, torch.zeros(1, 1, 1), (1, 1))
    assert pixels.shape == (1, 1, 8, 3)
    assert pixels.dtype == np.uint8
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 1, 128, 255, 255, 255, 255]
    assert pixels[0, 0, :, 1].tolist() == [255, 255, 254, 128, 0, 0, 0, 0]
