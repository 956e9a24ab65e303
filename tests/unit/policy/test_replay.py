"""Replay has the rollout's bits: exact for the picture, and for the text in float32 on a CPU."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from alphagrpo.models.bagel import mlp_parts
from alphagrpo.models.unified import ALL_LAYERS
from alphagrpo.policy.replay import replay_group
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.types import Group
from tests.fakes import (
    FakeTokenizer,
    image_log_probs,
    make_config,
    make_job,
    make_model,
    make_prompts,
)


def draw_groups(config, model, count: int = 3) -> list[Group]:
    worker = RolloutWorker(model, FakeTokenizer(), config)
    return [worker.sample_group(make_job(prompt, config)) for prompt in make_prompts(count)]


@pytest.mark.parametrize("trainable", ["lora", "experts"])
@pytest.mark.parametrize("renorm", ["none", "global", "channel", "text_channel"])
def test_replay_has_the_bits_of_the_rollout(trainable: str, renorm: str) -> None:
    flow = {
        "num_points": 8,
        "window": {"length": 5, "allowed": (0, 6)},
        "guidance": {"interval": (0.7, 1.0), "renorm": renorm},
    }
    config = make_config(
        model={"trainable": trainable},
        task={"max_think_tokens": 16},
        rollout={"group_size": 5, "flow": flow, "text": {"top_p": 1.0}},
    )
    model = make_model(trainable)
    lengths = set()
    for group in draw_groups(config, model):
        replay = replay_group(model, group, config)
        branches = {replay.plan.num_branches(step) for step in replay.plan.window.steps}
        assert branches == {1, 2}, "the window must cross the guidance interval"
        assert torch.equal(image_log_probs(replay, model), replay.old_image)
        assert torch.equal(replay.thoughts.log_probs, replay.old_text)
        assert replay.thoughts.log_probs.requires_grad
        lengths |= {len(t.text.token_ids) for t in group.trajectories}
    assert len(lengths) > 1, "the groups must hold thoughts of different lengths"


@pytest.mark.parametrize("part_tokens", [7, 20])
def test_parts_of_an_mlp_are_those_of_the_rollout(
    monkeypatch: pytest.MonkeyPatch, part_tokens: int
) -> None:
    """Every forward of the replay splits as the rollout's did, whatever is computed again."""
    monkeypatch.setattr(mlp_parts, "PART_TOKENS", part_tokens)
    config, model = make_config(rollout={"group_size": 5}), make_model("lora")
    (group,) = draw_groups(config, model, 1)
    for layers in (0, 1, ALL_LAYERS):
        model.set_recompute(layers)
        replay = replay_group(model, group, config)
        assert torch.equal(replay.thoughts.log_probs, replay.old_text)
        pictures = replay.for_pictures()
        scored = [pictures.image_step(model, k).log_prob for k in range(replay.num_steps)]
        assert torch.equal(torch.stack(scored, dim=1), replay.old_image)
        assert scored[0].requires_grad


def test_what_only_thoughts_need_is_let_go_before_the_pictures() -> None:
    flow = {"num_points": 8, "window": {"length": 5, "allowed": (0, 6)}}
    flow["guidance"] = {"interval": (0.7, 1.0)}
    config = make_config(rollout={"group_size": 5, "flow": flow})
    model = make_model("lora")
    (group,) = draw_groups(config, model, 1)
    replay = replay_group(model, group, config)
    read = [weakref.ref(keys.untyped_storage()) for keys in replay.thoughts.context.keys]
    replay.thoughts.log_probs.sum().backward()
    replay = replay.for_pictures()
    gc.collect()
    assert [storage() for storage in read] == [None, None]
    assert {replay.plan.num_branches(step) for step in replay.plan.window.steps} == {1, 2}
    assert torch.equal(image_log_probs(replay, model), replay.old_image), "one branch is a view"


def test_replay_without_thinking_and_without_guidance() -> None:
    config = make_config(
        model={"trainable": "experts"},
        task={"think": False},
        reward={"format_bonus": 0.0},
        algorithm={"image": {"guidance_in_training": False}},
    )
    model = make_model()
    for group in draw_groups(config, model, 2):
        replay = replay_group(model, group, config)
        assert torch.equal(image_log_probs(replay, model), replay.old_image)


def test_image_gradient_reaches_neither_contexts_nor_thoughts() -> None:
    """Weights that only the reading of text uses get no gradient from the picture."""
    config = make_config(model={"trainable": "experts"})
    model = make_model()
    replay = replay_group(model, draw_groups(config, model, 1)[0], config)
    assert not any(k.requires_grad for k in replay.branches.packed(2).keys)
    replay.image_step(model, 0).log_prob.sum().backward()
    layers = model.language_model.model.layers
    last = layers[-1].self_attn
    assert last.o_proj_moe_gen.weight.grad.abs().sum() > 0
    assert last.o_proj.weight.grad is None or last.o_proj.weight.grad.abs().sum() == 0


def test_other_weights_change_the_ratio() -> None:
    config = make_config(model={"trainable": "experts"})
    model = make_model()
    group = draw_groups(config, model, 1)[0]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layers" in name:
                parameter.mul_(1.01)
    replay = replay_group(model, group, config)
    assert (image_log_probs(replay, model) != replay.old_image).all()
    assert (replay.thoughts.log_probs != replay.old_text)[replay.thoughts.mask].any()


def test_text_scores_are_the_unfiltered_ones() -> None:
    """Top-p 0.3 leaves few ids, whose filtered probabilities would be far larger."""
    config = make_config(model={"trainable": "experts"}, rollout={"text": {"top_p": 0.3}})
    model = make_model()
    group = draw_groups(config, model, 1)[0]
    scores = np.concatenate([t.text.log_probs for t in group.trajectories])
    assert np.exp(scores).mean() < 0.3
