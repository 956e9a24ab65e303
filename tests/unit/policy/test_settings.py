"""Which settings, seeds and pictures each thing the worker draws is drawn with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from alphagrpo import seeds
from alphagrpo.config import RunConfig
from alphagrpo.config.sampling import SamplingParams
from alphagrpo.flow import Window
from alphagrpo.policy import worker as worker_module
from alphagrpo.policy.drawing import GeneratedBatch, decode, draw_batch
from alphagrpo.policy.recipe import GroupSeeds, Recipe
from alphagrpo.policy.replay import replay_group
from alphagrpo.policy.starts import encode_start
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.types import GivenImage, RolloutJob, TextSegment
from tests.fakes import (
    FakeTokenizer,
    image_log_probs,
    make_config,
    make_job,
    make_model,
    make_prompts,
)

PROMPTS = make_prompts(4)


def guidance(text: float, image: float = 1.0) -> dict[str, Any]:
    return {"text_scale": text, "image_scale": image, "interval": (0.0, 1.0)}


def config_of(kind: str = "mixed", **sections: Any) -> RunConfig:
    """Every setting that could be mixed up has a number of its own."""
    window = {"length": 2, "allowed": (0, 4)}
    refinement = {
        "prompt": "it should be {prompt}",
        "drafts": {"num": 3, "num_points": 4, "guidance": guidance(1.5), "think": True,
                   "text": {"temperature": 0.5, "top_p": 0.9}},
        "text": {"temperature": 0.6, "top_p": 0.8},
        "flow": {"num_points": 7, "shift": 2.5, "window": window, "guidance": guidance(3.0, 2.0)},
    }  # fmt: skip
    base: dict[str, Any] = {
        "model": {"trainable": "experts"},
        "task": {"kind": kind, "height": 32, "width": 48, "max_think_tokens": 4},
        "rollout": {
            "text": {"temperature": 0.7, "top_p": 0.95},
            "flow": {"num_points": 6, "shift": 1.5, "window": window, "guidance": guidance(2.0)},
        },
        "evaluation": {
            "num_points": 5,
            "guidance": guidance(4.0),
            "text": {"temperature": 0.1, "top_p": 0.7},
            "refinement_guidance": guidance(5.0, 2.5),
        },
        "refinement": refinement,
    }
    return make_config(**{**base, **sections})


class Spy:
    """Remembers what pictures were drawn with, and draws them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        """Prefix, plan, keys, grid and thinking of each."""

    def __call__(self, model: Any, *arguments: Any) -> GeneratedBatch:
        self.calls.append(arguments)
        return draw_batch(model, *arguments)

    @property
    def settings(self) -> list[tuple[int, float, float, float, float]]:
        """Points, first interior time, both scales and temperature of each call."""
        return [
            (
                len(plan.times),
                round(plan.times[1], 4),
                plan.guidance.text_scale,
                plan.guidance.image_scale,
                -1.0 if thinking is None else thinking.sampling.temperature,
            )
            for _, plan, _, _, thinking in self.calls
        ]


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr(worker_module, "draw_batch", spy)
    return spy


def make_worker(config: RunConfig) -> RolloutWorker:
    return RolloutWorker(make_model(), FakeTokenizer(), config)


def second_time(points: int, shift: float) -> float:
    t = (points - 2) / (points - 1)
    return round(shift * t / (1 + (shift - 1) * t), 4)


def start_of(worker: RolloutWorker, level: int = 128) -> GivenImage:
    return encode_start(worker.model, np.full((32, 48, 3), level, np.uint8), worker.config.task)


def refining(config: RunConfig) -> RolloutJob:
    return replace(make_job(PROMPTS[0], config), task="srr")


# -- settings


def test_groups_drafts_and_refinements_have_their_own_settings(spy: Spy) -> None:
    worker = make_worker(config_of())
    job = refining(worker.config)
    worker.sample_group(replace(job, task="rt2i"))
    drafts = worker.draw_drafts(job)
    worker.sample_refinements(job, drafts[0].as_start())
    assert spy.settings == [
        (6, second_time(6, 1.5), 2.0, 1.0, 0.7),
        (4, second_time(4, 1.5), 1.5, 1.0, 0.5),
        (7, second_time(7, 2.5), 3.0, 2.0, 0.6),
    ]
    assert [call[1].window is None for call in spy.calls] == [False, True, False]
    assert [call[1].has_image for call in spy.calls] == [False, False, True]
    assert [call[4] and call[4].max_tokens for call in spy.calls] == [4, 4, 4]
    # Each began from the system prompt, which is what is left without the user's.
    system = 2 + len(worker.tokenizer.encode("plan first"))
    assert spy.calls[1][0].text_free.length == system


@pytest.mark.parametrize("own", [True, False])
def test_evaluation_draws_refines_and_edits_with_its_own_settings(spy: Spy, own: bool) -> None:
    evaluation = config_of().evaluation.model_dump()
    if not own:
        evaluation["refinement_guidance"] = None
    worker = make_worker(config_of(evaluation=evaluation))
    start = start_of(worker)
    request = PictureRequest(prompt=PROMPTS[0], seed=1)
    shown = replace(request, start=start)
    worker.draw([replace(shown, purpose="edit"), request, shown])
    scales = (5.0, 2.5) if own else (3.0, 2.0)
    assert spy.settings == [
        (5, second_time(5, 1.5), 4.0, 1.0, 0.1),
        (5, second_time(5, 2.5), *scales, 0.1),
        (5, second_time(5, 2.5), *scales, 0.1),
    ]
    assert [call[1].num_branches(1) for call in spy.calls] == [2, 3, 3]
    # Drawn, refined and edited: only the refinement is asked for in the words of the config.
    lengths = [call[0].full.length - call[0].text_free.length - 2 for call in spy.calls]
    text = PROMPTS[0].text
    assert lengths == [len(text), len(f"it should be {text}"), len(text)]


def test_an_edit_needs_no_section_on_refining(spy: Spy) -> None:
    worker = make_worker(config_of("rt2i", refinement=None))
    worker.draw([PictureRequest(prompt=PROMPTS[0], seed=1, start=start_of(worker), purpose="edit")])
    assert spy.settings == [(5, second_time(5, 1.5), 4.0, 1.0, 0.1)]


# -- seeds


@pytest.mark.parametrize(("start_noise", "starts"), [("sample", [0, 1, 2, 3]), ("group", [0] * 4)])
def test_noise_is_the_groups_and_thoughts_are_the_samples_own(
    spy: Spy, start_noise: str, starts: list[int]
) -> None:
    flow = config_of().rollout.flow.model_dump() | {"start_noise": start_noise}
    worker = make_worker(config_of(rollout={"flow": flow}))
    job = make_job(PROMPTS[1], worker.config, visit=2)
    group = worker.sample_group(job)
    shared = seeds.group_seed(job.seed, "p1", 2)
    own = [seeds.sample_seed(job.seed, "p1", 2, i) for i in range(4)]
    keys = spy.calls[0][2]
    assert list(keys.thoughts) == own
    assert list(keys.noise) == [shared] * 4
    assert list(keys.samples) == [0, 1, 2, 3]
    assert list(keys.starts) == starts
    assert [t.seed for t in group.trajectories] == own
    assert [t.id for t in group.trajectories] == [f"fake/p1/2/{i}" for i in range(4)]
    assert {t.image.noise_seed for t in group.trajectories} == {shared}


def test_seeds_change_with_run_prompt_visit_and_task() -> None:
    job = make_job(PROMPTS[0], config_of())
    others = [
        replace(job, seed=job.seed + 1),
        replace(job, prompt=PROMPTS[1]),
        replace(job, visit=1),
        replace(job, task="srr"),
    ]
    keys = [GroupSeeds.of(one) for one in (job, *others)]
    assert len({key.shared for key in keys}) == 5
    assert len({seed for key in keys for seed in key.own}) == 5 * job.group_size
    assert GroupSeeds.of(replace(job, run="other", policy_version=3)) == keys[0]


def test_a_groups_window_is_a_function_of_its_seed() -> None:
    recipe = Recipe.of(config_of(), "rt2i")
    windows = [recipe.window(seed) for seed in range(40)]
    assert set(windows) == {Window(0, 2), Window(1, 2), Window(2, 2)}
    assert windows == [recipe.window(seed) for seed in range(40)]


def test_each_recipe_says_whether_guidance_is_trained() -> None:
    config = config_of(algorithm={"image": {"guidance_in_training": False}})
    for task, sampling in (("rt2i", (0.7, 0.95)), ("srr", (0.6, 0.8))):
        recipe = Recipe.of(config, task)
        plan = recipe.plan(Window(0, 2))
        assert {plan.num_branches(step) for step in range(5)} == {1}
        temperature, top_p = sampling
        assert recipe.text == SamplingParams(temperature=temperature, top_p=top_p)
        guided = Recipe.of(config_of(), task).plan(Window(0, 2))
        assert guided.num_branches(1) == (3 if task == "srr" else 2)


# -- pictures


def test_pictures_that_are_not_square_keep_their_sides_and_are_replayed() -> None:
    worker = make_worker(config_of())
    group = worker.sample_group(make_job(PROMPTS[0], worker.config))
    images = [trajectory.image for trajectory in group.trajectories]
    assert {image.pixels.shape for image in images} == {(32, 48, 3)}
    latents = torch.from_numpy(np.stack([image.final_latents for image in images]))
    pixels = decode(worker.model, latents, (2, 3))
    assert np.array_equal(pixels, np.stack([image.pixels for image in images]))
    replay = replay_group(worker.model, group, worker.config)
    assert torch.equal(image_log_probs(replay, worker.model), replay.old_image)


def test_each_picture_has_its_own_thought_latents_and_place() -> None:
    """Drawn, edited and refined in one call: the answers come in the order of the requests."""
    worker = make_worker(config_of())
    start = start_of(worker)
    requests = [
        PictureRequest(prompt=PROMPTS[0], seed=1, start=start, purpose="edit"),
        PictureRequest(prompt=PROMPTS[1], seed=2),
        PictureRequest(prompt=PROMPTS[2], seed=3, start=start),
        PictureRequest(prompt=PROMPTS[3], seed=4),
    ]
    pictures = worker.draw(requests)
    assert [picture.prompt for picture in pictures] == PROMPTS
    for request, picture in zip(requests, pictures, strict=True):
        (alone,) = worker.draw([request])
        assert picture.thought == alone.thought
        assert picture.latents is not None
        np.testing.assert_allclose(picture.latents, alone.latents, atol=1e-3)
        again = decode(worker.model, torch.from_numpy(picture.latents)[None], (2, 3))[0]
        assert np.abs(again.astype(int) - picture.pixels.astype(int)).max() <= 1
    assert len({picture.thought for picture in pictures}) == 4
    assert {picture.policy_version for picture in pictures} == {-1}


def test_pictures_name_the_version_they_were_drawn_with(spy: Spy) -> None:
    from alphagrpo.models import weights

    worker = make_worker(config_of())
    worker.apply_weights(*weights.flatten(worker.parameters, version=6))
    (picture,) = worker.draw([PictureRequest(prompt=PROMPTS[0], seed=1)])
    drafts: tuple[Picture, ...] = worker.draw_drafts(refining(worker.config))
    assert {p.policy_version for p in (picture, *drafts)} == {6}


def test_a_trajectory_is_described_by_its_thoughts_without_end_ids() -> None:
    worker = make_worker(config_of())
    texts = [([20, 21, 2], True), ([22, 23], False), ([2], True)]
    segments = tuple(
        TextSegment(token_ids=np.array(ids), log_probs=np.zeros(len(ids), np.float32), finished=end)
        for ids, end in texts
    )
    (first, *_) = worker.sample_group(make_job(PROMPTS[0], worker.config)).trajectories
    assert worker.describe(replace(first, segments=segments)) == "20 21\n22 23\n"
