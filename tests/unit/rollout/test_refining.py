"""Refinements on a tiny BAGEL: what they begin from, what they keep, and replay with their bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from alphagrpo.config import RunConfig, load_config, parse_config
from alphagrpo.config.refinement import DraftConfig
from alphagrpo.errors import BadImage, ConfigError, PolicyDataError
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.policy.recipe import GroupSeeds, Recipe
from alphagrpo.policy.replay import replay_group
from alphagrpo.policy.starts import encode_start
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.ports import PictureRequest, Sample
from alphagrpo.rollout.refining import Drafts, pick_draft
from alphagrpo.tasks import task_of
from alphagrpo.types import GivenImage, GivenText, Group, RolloutJob, Score
from tests.fakes import (
    FakeTokenizer,
    batch_of,
    image_log_probs,
    make_config,
    make_job,
    make_model,
    make_prompts,
)

PROMPTS = make_prompts(4)
REFINEMENT: dict[str, Any] = {
    "prompt": "it should be {prompt}",
    "drafts": {"num": 3, "num_points": 5, "guidance": {"text_scale": 2.0}},
    "text": {"top_p": 1.0},
    "flow": {
        "num_points": 6,
        "window": {"length": 2, "allowed": (0, 4)},
        "guidance": {
            "text_scale": 3.0,
            "image_scale": 2.0,
            "interval": (0.0, 1.0),
            "renorm": "text_channel",
        },
    },
}


def refining(kind: str = "srr", think: bool = True, **changes: Any) -> RunConfig:
    return make_config(
        model={"trainable": "experts"},
        task={"kind": kind, "think": think, "max_think_tokens": 12},
        reward={"format_bonus": float(think)},
        refinement={**REFINEMENT, **changes},
    )


def make_worker(config: RunConfig, seed: int = 0) -> RolloutWorker:
    return RolloutWorker(make_model(seed=seed), FakeTokenizer(), config)


def job_of(config: RunConfig, prompt: int = 0) -> RolloutJob:
    return replace(make_job(PROMPTS[prompt], config), task="srr")


def refine(worker: RolloutWorker, prompt: int = 0) -> Group:
    job = job_of(worker.config, prompt)
    return worker.sample_refinements(job, worker.draw_drafts(job)[1].as_start())


def test_drafts_are_untrained_pictures_that_differ_and_come_again() -> None:
    config = refining()
    worker, other = make_worker(config), make_worker(config)
    drafts = worker.draw_drafts(job_of(config))
    assert len(drafts) == 3
    assert len({picture.pixels.tobytes() for picture in drafts}) == 3
    assert all(picture.thought == "" for picture in drafts)
    again = other.draw_drafts(job_of(config))
    for one, two in zip(drafts, again, strict=True):
        assert np.array_equal(one.latents, two.latents)


def test_refinements_hold_draft_request_thought_and_picture() -> None:
    worker = make_worker(refining())
    job = job_of(worker.config)
    draft = worker.draw_drafts(job)[0].as_start()
    group = worker.sample_refinements(job, draft)
    for trajectory in group.trajectories:
        system, shown, request, text, image = trajectory.segments
        assert isinstance(system, GivenText)
        assert system.role == "system"
        assert shown is draft
        wanted = worker.tokenizer.encode(f"it should be {job.prompt.text}")
        assert request.token_ids.tolist() == wanted
        assert (trajectory.text, trajectory.image) == (text, image)
        assert image.log_probs.shape == (2,)
    assert len({t.image.pixels.tobytes() for t in group.trajectories}) > 1
    plain = worker.sample_group(make_job(PROMPTS[0], worker.config))
    assert {t.id for t in plain.trajectories}.isdisjoint(t.id for t in group.trajectories)


def test_the_draft_matters() -> None:
    worker = make_worker(refining())
    job = job_of(worker.config)
    first, second = (
        worker.sample_refinements(job, p.as_start()) for p in worker.draw_drafts(job)[:2]
    )
    images = zip(first.trajectories, second.trajectories, strict=True)
    assert all(not np.array_equal(a.image.latents, b.image.latents) for a, b in images)


@pytest.mark.parametrize("renorm", ["none", "global", "channel", "text_channel"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_replay_has_the_bits_of_every_round(renorm: str, rounds: int) -> None:
    flow = REFINEMENT["flow"]
    guidance = {**flow["guidance"], "renorm": renorm, "interval": (0.6, 1.0)}
    config = refining(rounds=rounds, flow={**flow, "guidance": guidance})
    worker = make_worker(config)
    branches = set()
    for prompt in range(3):
        group = refine(worker, prompt)
        for index in range(rounds):
            replay = replay_group(worker.model, group, config, index)
            assert torch.equal(image_log_probs(replay, worker.model), replay.old_image)
            assert torch.equal(replay.thoughts.log_probs, replay.old_text)
            assert replay.thoughts.log_probs.requires_grad
            branches |= {replay.plan.num_branches(step) for step in replay.plan.window.steps}
    assert 3 in branches, "the image-free branch must be replayed"


def test_replay_without_reflection() -> None:
    config = refining(think=False)
    worker = make_worker(config)
    group = refine(worker)
    assert group.trajectories[0].texts == ()
    assert isinstance(group.trajectories[0].segments[0], GivenImage), "no system prompt is read"
    replay = replay_group(worker.model, group, config)
    assert torch.equal(image_log_probs(replay, worker.model), replay.old_image)


def test_later_rounds_begin_from_each_samples_own_picture() -> None:
    config = refining(rounds=2)
    worker = make_worker(config)
    group = refine(worker)
    for trajectory in group.trajectories:
        assert (len(trajectory.texts), len(trajectory.images)) == (2, 2)
    # Another first picture of one sample changes that sample's second round alone.
    changed = group.trajectories[0]
    other = replace(changed.images[0], final_latents=changed.images[0].final_latents + 1.0)
    segments = tuple(other if s is changed.images[0] else s for s in changed.segments)
    swapped = replace(
        group, trajectories=(replace(changed, segments=segments), *group.trajectories[1:])
    )
    replay = replay_group(worker.model, swapped, config, 1)
    new = image_log_probs(replay, worker.model)
    assert (new[0] != replay.old_image[0]).all()
    assert torch.allclose(new[1:], replay.old_image[1:], atol=1e-5)


def test_missing_rounds_and_drafts_are_refused() -> None:
    config = refining()
    worker = make_worker(config)
    group = refine(worker)
    with pytest.raises(PolicyDataError, match="round 2"):
        replay_group(worker.model, group, config, 1)
    bare = [
        replace(t, segments=tuple(s for s in t.segments if not isinstance(s, GivenImage)))
        for t in group.trajectories
    ]
    with pytest.raises(PolicyDataError, match="one draft"):
        replay_group(worker.model, replace(group, trajectories=tuple(bare)), config)


def test_every_round_trains_at_parity_with_the_text_weight_of_refinements() -> None:
    gradients = {}
    for weight in (0.0, 1.0):
        config = refining(rounds=2, text_weight=weight)
        worker = make_worker(config)
        group = refine(worker)
        rewards = tuple(float(i) for i in range(config.rollout.group_size))
        learner = GRPOLearner(worker.model, config)
        learner.export()
        learner.version = group.job.policy_version
        named = [replace(t, policy_version=learner.version) for t in group.trajectories]
        scored = replace(group, rewards=rewards, trajectories=tuple(named))
        report = learner.update(batch_of([scored], config))
        gradients[weight] = report.metrics["learner/grad_norm"]
        assert report.metrics["parity/image_max_abs_log_ratio"] == 0.0
        assert report.metrics["parity/text_max_abs_log_ratio"] == 0.0
    assert gradients[0.0] != gradients[1.0]


def test_pictures_are_drawn_refined_and_edited_in_one_call() -> None:
    worker = make_worker(refining())
    (draft,) = worker.draw([PictureRequest(prompt=PROMPTS[0], seed=1)])
    start = draft.as_start()
    requests = [
        PictureRequest(prompt=PROMPTS[0], seed=2, start=start),
        PictureRequest(prompt=PROMPTS[0], seed=1),
        PictureRequest(prompt=PROMPTS[0], seed=2, start=start, purpose="edit"),
    ]
    refined, drawn, edited = worker.draw(requests)
    assert np.array_equal(drawn.pixels, draft.pixels)
    assert not np.array_equal(refined.pixels, edited.pixels)
    (alone,) = worker.draw(requests[:1])
    assert alone.thought == refined.thought


def test_pictures_of_another_size_or_form_are_refused() -> None:
    worker = make_worker(refining())
    (draft,) = worker.draw([PictureRequest(prompt=PROMPTS[0], seed=1)])
    start = draft.as_start()
    broken = [
        replace(start, pixels=start.pixels[:16]),
        replace(start, pixels=start.pixels[..., :1]),
        replace(start, pixels=start.pixels.astype(np.float32)),
        replace(start, latents=start.latents[:-1]),
        replace(start, latents=np.full_like(start.latents, np.nan)),
    ]
    for bad in broken:
        with pytest.raises(BadImage, match=r"got|finite"):
            worker.draw([PictureRequest(prompt=PROMPTS[0], seed=1, start=bad)])
    with pytest.raises(BadImage, match="RGB"):
        encode_start(worker.model, start.pixels[:, :16], worker.config.task)
    given = encode_start(worker.model, start.pixels, worker.config.task)
    assert given.latents.shape == start.latents.shape


def test_an_empty_reflection_is_trained_and_earns_no_bonus(monkeypatch) -> None:
    """A head that ends every text at once: the end id is the whole thought."""
    worker = make_worker(refining(format_bonus=1.0))
    end, hidden = worker.model.special.text_end, []
    with monkeypatch.context() as patch:
        logits = worker.model.text_logits
        patch.setattr(worker.model, "text_logits", lambda h: hidden.append(h) or logits(h))
        refine(worker)
    with torch.no_grad():
        head, first = worker.model.text_head(), hidden[0][0]
        head.zero_()
        head[end] = 50.0 * first / first.square().sum()
    group = refine(worker)
    assert [t.text.token_ids.tolist() for t in group.trajectories] == [[end]] * 4
    assert not any(t.well_formed for t in group.trajectories)
    replay = replay_group(worker.model, group, worker.config)
    assert replay.thoughts.mask.sum(dim=1).tolist() == [1] * 4
    assert torch.equal(replay.thoughts.log_probs, replay.old_text)


def test_a_thought_of_every_round_must_be_well_formed() -> None:
    class Tags(FakeTokenizer):
        """Reads every thought as the text that ``answers`` has for it."""

        def decode(self, token_ids):
            return next(self.answers)

    config = refining(rounds=2)
    worker = RolloutWorker(make_model(), Tags(), config)
    good, bad = "<think> so </think>", "<think> so"
    worker.tokenizer.answers = iter([good, good, good, bad, bad, good, bad, bad])
    group = refine(worker)
    assert [t.well_formed for t in group.trajectories] == [True, False, False, False]


def test_rounds_share_neither_windows_nor_random_numbers() -> None:
    job = job_of(refining(rounds=3))
    keys = [GroupSeeds.of(job, index) for index in range(3)]
    assert len({key.shared for key in keys}) == 3
    assert len({seed for key in keys for seed in key.own}) == 3 * job.group_size
    drawing = GroupSeeds.of(replace(job, task="rt2i"))
    assert not {drawing.shared, *drawing.own} & {s for k in keys for s in (k.shared, *k.own)}


# -- which draft, which task


def draft_samples(*rewards: float | None) -> Drafts:
    def score(value: float | None) -> Score | None:
        if value is None:
            return None
        return Score(semantic=value, quality=value, value=value, verdicts=())

    samples = [
        Sample(id=str(i), thought="", score=score(value), reward=None)
        for i, value in enumerate(rewards)
    ]
    return Drafts(pictures=(), samples=tuple(samples))


def test_the_worst_scored_draft_is_refined_and_never_an_unscored_one() -> None:
    job = job_of(refining())
    worst = DraftConfig(pick="worst")
    assert pick_draft(draft_samples(0.9, 0.2, None, 0.2).samples, job, worst) == 1
    assert pick_draft(draft_samples(None, None).samples, job, worst) is None
    sampled = DraftConfig(pick="sampled")
    picks = [
        pick_draft(draft_samples(0.9, None, 0.1).samples, replace(job, visit=visit), sampled)
        for visit in range(400)
    ]
    assert set(picks) == {0, 2}
    # softmax(1 - r): e^0.9 / (e^0.9 + e^0.1) = 0.69
    assert 0.62 < picks.count(2) / 400 < 0.76


def test_mixed_runs_refine_the_share_that_was_asked_for() -> None:
    config = refining("mixed", share=0.25)
    tasks = [task_of(config, f"p{i}", visit) for i in range(400) for visit in (0, 1)]
    assert 0.19 < tasks.count("srr") / 800 < 0.31
    assert tasks == [task_of(config, f"p{i}", visit) for i in range(400) for visit in (0, 1)]
    assert {task_of(refining("srr"), f"p{i}", 0) for i in range(9)} == {"srr"}
    assert {task_of(make_config(), f"p{i}", 0) for i in range(9)} == {"rt2i"}


def test_a_bare_off_in_yaml_switches_rectification_off(tmp_path) -> None:
    path = tmp_path / "run.yaml"
    raw = refining().model_dump(mode="json")
    raw["refinement"]["rectification"] = False  # what YAML 1.1 makes of a bare off
    path.write_text(yaml.safe_dump(raw))
    assert "rectification: false" in path.read_text()
    assert load_config(path, []).refinement.rectification == "off"


def test_each_task_has_its_own_recipe() -> None:
    config = refining("mixed", text_weight=0.3)
    drawing, refinement = Recipe.of(config, "rt2i"), Recipe.of(config, "srr")
    assert (drawing.text_weight, refinement.text_weight) == (1.0, 0.3)
    assert (drawing.flow.window.length, refinement.flow.window.length) == (3, 2)
    with pytest.raises(ConfigError, match="refinement"):
        Recipe.of(make_config(), "srr")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": {"kind": "srr"}, "refinement": None}, "section refinement"),
        ({"refinement": {**REFINEMENT, "prompt": "no quote"}}, "{prompt} once"),
        ({"refinement": {**REFINEMENT, "rounds": 0}}, "rounds"),
        ({"refinement": {**REFINEMENT, "drafts": {"trained": True}}}, "task.kind rt2i"),
        (
            {"refinement": {**REFINEMENT, "flow": {"num_points": 3}}},
            "refinement.flow.window.allowed",
        ),
    ],
)
def test_impossible_refinements_are_refused_by_name(change: dict[str, Any], words: str) -> None:
    raw = make_config().model_dump(mode="json")
    for name, section in change.items():
        raw[name] = {**(raw[name] or {}), **section} if section else None
    with pytest.raises(ConfigError) as error:
        parse_config(raw)
    assert words in str(error.value)
