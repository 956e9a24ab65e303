"""The rollout worker on a tiny BAGEL: what a drawn group holds and what it depends on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alphagrpo.config import RunConfig
from alphagrpo.errors import WeightsError
from alphagrpo.models import weights
from alphagrpo.policy.trainable import trainable_parameters
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.ports import PictureRequest
from alphagrpo.types import GivenText, Group
from tests.fakes import FakeTokenizer, make_config, make_job, make_model, make_prompts

PROMPTS = make_prompts(4)


def make_worker(config: RunConfig | None = None, seed: int = 0) -> RolloutWorker:
    return RolloutWorker(
        make_model(seed=seed),
        FakeTokenizer(),
        config or make_config(model={"trainable": "experts"}),
    )


def same(one: Group, other: Group) -> bool:
    pairs = zip(one.trajectories, other.trajectories, strict=True)
    return all(
        np.array_equal(a.text.token_ids, b.text.token_ids)
        and np.array_equal(a.text.log_probs, b.text.log_probs)
        and np.array_equal(a.image.latents, b.image.latents)
        and np.array_equal(a.image.pixels, b.image.pixels)
        for a, b in pairs
    )


def test_group_holds_what_replay_needs() -> None:
    worker = make_worker()
    config = worker.config
    group = worker.sample_group(make_job(PROMPTS[0], config))
    assert [t.sample for t in group.trajectories] == list(range(config.rollout.group_size))
    assert len({t.id for t in group.trajectories}) == len(group.trajectories)
    for trajectory in group.trajectories:
        system, prompt = trajectory.segments[:2]
        assert isinstance(system, GivenText)
        assert isinstance(prompt, GivenText)
        assert (system.role, prompt.role) == ("system", "prompt")
        image = trajectory.image
        assert image.latents.shape == (4, 4, worker.model.latent_channels)
        assert image.log_probs.shape == (3,)
        assert (image.log_probs < 0).all()
        assert image.pixels.shape == (32, 32, 3)
        assert image.pixels.dtype == np.uint8
    assert len({t.image.window_start for t in group.trajectories}) == 1


def test_thoughts_end_by_themselves_or_are_cut() -> None:
    task = {"max_think_tokens": 24}
    worker = make_worker(make_config(model={"trainable": "experts"}, task=task))
    end = worker.model.special.text_end
    texts = [
        t.text
        for prompt in PROMPTS
        for t in worker.sample_group(make_job(prompt, worker.config)).trajectories
    ]
    assert {text.finished for text in texts} == {True, False}, "the test needs both sorts"
    for text in texts:
        assert len(text.log_probs) == len(text.token_ids) <= worker.config.task.max_think_tokens
        assert (end in text.token_ids[:-1]) is False
        assert (text.token_ids[-1] == end) == text.finished
        assert (text.log_probs <= 0).all()


def test_same_job_gives_the_same_bits_whatever_was_drawn_before() -> None:
    first, second = make_worker(), make_worker()
    job = make_job(PROMPTS[1], first.config)
    second.sample_group(make_job(PROMPTS[2], first.config))
    assert same(first.sample_group(job), second.sample_group(job))


def test_seed_visit_and_prompt_change_the_draws() -> None:
    worker = make_worker()
    base = make_job(PROMPTS[0], worker.config)
    drawn = worker.sample_group(base)
    for other in (replace(base, visit=1), replace(base, seed=7)):
        assert not same(drawn, worker.sample_group(other))


def test_samples_of_a_group_differ_and_share_start_noise_only_if_asked() -> None:
    for start_noise in ("sample", "group"):
        flow = {"num_points": 6, "window": {"length": 2, "allowed": (0, 2)}}
        config = make_config(
            model={"trainable": "experts"},
            rollout={"flow": {**flow, "start_noise": start_noise}},
        )
        group = make_worker(config).sample_group(make_job(PROMPTS[0], config))
        starts = np.stack([t.image.latents[0] for t in group.trajectories])
        ends = np.stack([t.image.latents[-1] for t in group.trajectories])
        assert (starts[0] == starts[1]).all() == (start_noise == "group")
        assert (ends[0] != ends[1]).any()


def test_pictures_do_not_depend_on_their_neighbours_seeds() -> None:
    worker = make_worker()
    request = PictureRequest(prompt=PROMPTS[0], seed=3)
    neighbour = PictureRequest(prompt=PROMPTS[1], seed=4)
    alone = worker.draw([request])[0]
    second = worker.draw([neighbour, request])[1]
    assert alone.thought == second.thought
    # Another batch may round differently: one grey level.
    assert np.abs(alone.pixels.astype(int) - second.pixels.astype(int)).max() <= 1


def test_run_without_thinking_draws_from_the_prompt_alone() -> None:
    config = make_config(
        model={"trainable": "experts"},
        task={"think": False},
        reward={"format_bonus": 0.0},
    )
    group = make_worker(config).sample_group(make_job(PROMPTS[0], config))
    assert group.trajectories[0].text is None


def test_published_weights_are_drawn_with() -> None:
    worker, other = make_worker(seed=0), make_worker(seed=1)
    job = make_job(PROMPTS[0], worker.config)
    parameters = trainable_parameters(other.model, "experts")
    manifest, chunks = weights.flatten(parameters, version=5)
    before = worker.sample_group(job)
    worker.apply_weights(manifest, chunks)
    after = worker.sample_group(job)
    assert (worker.version, after.trajectories[0].policy_version) == (5, 5)
    assert not same(before, after)


def test_weights_without_effect_are_refused_and_those_before_stay_named() -> None:
    """Whether they are pulled or shared with a learner on the same card."""
    worker = make_worker()
    parameters = trainable_parameters(worker.model, "experts")
    first, chunks = weights.flatten(parameters, version=0)
    worker.apply_weights(first, chunks)
    assert worker.effect is None
    with torch.no_grad():
        next(iter(parameters.values())).mul_(2.0)
    worker.adopt(weights.flatten(parameters, version=1)[0])
    assert worker.effect is not None
    assert worker.effect > 0
    for version in (2, 3):
        worker.adopt(replace(first, version=version, checksum=f"other {version}"))
    idle = replace(first, version=4, checksum="other 4")
    with pytest.raises(WeightsError, match="must change what the policy computes"):
        worker.adopt(idle)
    assert worker.version == 3
    worker.apply_weights(first, chunks)
    for version in (2, 3):
        worker.adopt(replace(first, version=version, checksum=f"other {version}"))
    same_bytes, _ = weights.flatten(parameters, version=4)
    with torch.no_grad():
        worker.model.llm2vae.weight.mul_(2.0)
    with pytest.raises(WeightsError, match="the same weights must give the same output"):
        worker.adopt(replace(same_bytes, checksum="other 3"))


@pytest.mark.parametrize("threads", [1, 2])
def test_thread_count_does_not_change_a_tiny_group(threads: int) -> None:
    before = torch.get_num_threads()
    job = make_job(PROMPTS[3], make_config())
    expected = make_worker().sample_group(job)
    torch.set_num_threads(threads)
    try:
        assert same(expected, make_worker().sample_group(job))
    finally:
        torch.set_num_threads(before)
