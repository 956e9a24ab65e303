"""Pictures that are begun from, and groups that replay refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from alphagrpo.config import RunConfig
from alphagrpo.errors import BadImage, PolicyDataError
from alphagrpo.policy.replay import replay_group
from alphagrpo.policy.starts import check_start, encode_start, image_conditions
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.types import GivenImage, GivenText, Group, ImageSegment, TextSegment
from tests.fakes import FakeTokenizer, make_config, make_job, make_model, make_prompts


def config_of() -> RunConfig:
    flow = {"num_points": 6, "window": {"length": 2, "allowed": (0, 4)}}
    return make_config(
        model={"trainable": "experts"},
        task={"kind": "srr", "height": 32, "width": 48, "max_think_tokens": 4},
        refinement={"prompt": "it should be {prompt}", "flow": flow},
    )


def make_worker() -> RolloutWorker:
    return RolloutWorker(make_model(), FakeTokenizer(), config_of())


def start_of(worker: RolloutWorker, level: int) -> GivenImage:
    return encode_start(worker.model, np.full((32, 48, 3), level, np.uint8), worker.config.task)


def test_a_picture_from_outside_is_the_mean_of_its_encoding() -> None:
    worker = make_worker()
    levels = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    start = encode_start(worker.model, levels, worker.config.task)
    scaled = torch.from_numpy(levels).permute(2, 0, 1)[None].double() / 127.5 - 1.0
    expected = worker.model.encode_pixels(scaled.float())[0].numpy()
    np.testing.assert_allclose(start.latents, expected, atol=1e-5)
    assert start.latents.shape == (6, worker.model.latent_channels)
    again = encode_start(worker.model, levels, worker.config.task)
    assert np.array_equal(start.latents, again.latents)
    assert np.array_equal(start.pixels, levels)


def test_latents_of_another_size_or_model_are_refused() -> None:
    task, pixels = config_of().task, np.zeros((32, 48, 3), np.uint8)

    def check(*shape: int) -> None:
        latents = np.zeros(shape, np.float32)
        check_start(GivenImage(latents=latents, pixels=pixels), task, (2, 3), 16)

    check(6, 16)
    for shape in ((4, 16), (6, 64), (6,), (1, 6, 16)):
        with pytest.raises(BadImage, match=r"are \[6, 16\], got \[.*encode it again"):
            check(*shape)


def test_conditions_are_each_pictures_own_and_drawn_ones_by_where_they_ended() -> None:
    model = make_model()
    given = start_of(make_worker(), 10)
    drawn = ImageSegment(
        window_start=0,
        latents=np.ones((3, 6, 16), np.float32),
        log_probs=np.zeros(2, np.float32),
        noise_seed=0,
        final_latents=np.full((6, 16), 5, np.float32),
        pixels=np.full((32, 48, 3), 20, np.uint8),
    )
    conditions = image_conditions([given, drawn], (2, 3), model)
    assert np.array_equal(conditions.latents[0].numpy(), given.latents)
    assert (conditions.latents[1] == 5).all()
    assert [int(pixels[0, 0, 0]) for pixels in conditions.pixels] == [10, 20]
    assert conditions.grid == (2, 3)


# -- what replay refuses


@pytest.fixture(scope="module")
def refined() -> tuple[RolloutWorker, Group]:
    worker = make_worker()
    job = replace(make_job(make_prompts(1)[0], worker.config), task="srr")
    return worker, worker.sample_refinements(job, start_of(worker, 128))


def first_changed(group: Group, change: Any) -> Group:
    """The group with other segments in its first trajectory."""
    first, *others = group.trajectories
    segments = tuple(s for one in first.segments for s in change(one))
    return replace(group, trajectories=(replace(first, segments=segments), *others))


def moved(segment: Any) -> tuple[Any, ...]:
    is_image = isinstance(segment, ImageSegment)
    return (replace(segment, window_start=segment.window_start + 1) if is_image else segment,)


def shortened(segment: Any) -> tuple[Any, ...]:
    is_image = isinstance(segment, ImageSegment)
    return (replace(segment, latents=segment.latents[1:]) if is_image else segment,)


def thoughtless(segment: Any) -> tuple[Any, ...]:
    return () if isinstance(segment, TextSegment) else (segment,)


def promptless(segment: Any) -> tuple[Any, ...]:
    is_prompt = isinstance(segment, GivenText) and segment.role == "prompt"
    return () if is_prompt else (segment,)


def redrafted(segment: Any) -> tuple[Any, ...]:
    return (segment, segment) if isinstance(segment, GivenImage) else (segment,)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (moved, "share one SDE window, group fake/p0/0/refined/0 has several"),
        (shortened, "share one SDE window"),
        (thoughtless, "either all samples of group fake/p0/0/refined/0 must think or none"),
        (promptless, "fake/p0/0/refined/0 must hold its prompt text"),
        (redrafted, "begins from one draft, fake/p0/0/refined/0 holds 2"),
    ],
)
def test_groups_that_do_not_fit_together_are_refused(
    refined: tuple[RolloutWorker, Group], change: Any, says: str
) -> None:
    worker, group = refined
    replay_group(worker.model, group, worker.config)
    with pytest.raises(PolicyDataError, match=says):
        replay_group(worker.model, first_changed(group, change), worker.config)
