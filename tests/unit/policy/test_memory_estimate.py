"""The arithmetic of memory, against sums done by hand for the tiny model."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from alphagrpo.config import RunConfig
from alphagrpo.models.bagel.checkpoint import random_bagel, save_bagel
from alphagrpo.models.bagel.config import tiny_config
from alphagrpo.models.bagel.sizes import BagelShape
from alphagrpo.policy.loads import Load, TaskLoad, drawn_loads, learnt_loads, task_load
from alphagrpo.policy.memory import MemoryEstimate, ModelSize, memory_estimate, model_size
from alphagrpo.policy.working import BUCKET, LOGIT_COPIES, Handling
from tests.fakes import make_config


class FlatShape(BagelShape):
    """A token takes 3 values forward; back 50, and 7 less for each layer that is recomputed."""

    kv_values_per_token = 5

    def forward_values(self, sequences: int, tokens: int, past: int) -> int:
        return 3 * sequences * tokens

    def replay_values(self, sequences: int, tokens: int, past: int, *, recomputed: int) -> int:
        return (50 - 7 * recomputed) * sequences * tokens

    def decoded_bytes(self, pictures: int, height: int, width: int) -> int:
        return pictures * height * width


SHAPE = FlatShape(tiny_config())
SIZE = ModelSize(
    understanding=1000,
    generation=2000,
    embeddings=300,
    vision=40,
    autoencoder=5,
    other=6,
    lora=70,
    float32=9,
    kv_bytes_per_token=10,
    assumed=False,
)
REFINEMENT = {
    "prompt": "it should be {prompt}",
    "rounds": 2,
    "flow": {
        "num_points": 6,
        "window": {"length": 2, "allowed": (0, 4)},
        "guidance": {"text_scale": 3.0, "image_scale": 2.0},
    },
}


def config_of(kind: str = "rt2i", **sections: Any) -> RunConfig:
    refinement = None if kind == "rt2i" else REFINEMENT
    task = {"kind": kind, **sections.pop("task", {})}
    # Groups alone: an evaluation draws larger batches.
    evaluation = {"num_plain": 0, "num_thought": 0, **sections.pop("evaluation", {})}
    return make_config(task=task, refinement=refinement, evaluation=evaluation, **sections)


def estimate(config: RunConfig) -> MemoryEstimate:
    return memory_estimate(config, SHAPE, SIZE)


def test_drawing_with_adapters_is_the_sum_of_its_parts() -> None:
    """Four samples of 32 x 32 pixels: 4 tokens of 16 channels; 2 branches; thoughts of 6."""
    result = estimate(config_of(model={"trainable": "lora", "dtype": "bfloat16"}))
    read, query = 4 * (2 + 128 + 6) * 10, 4 * 2 * (4 + 2)
    buffers = 4 * BUCKET * 10
    assert asdict(result) == {
        "tokens_per_image": 4,
        "weights": 3351 * 2 + 9 * 2,
        "rank_weights": 3351 * 2 + 9 * 2,
        "gathered": 0,
        "trainable": 70,
        "masters": 70 * 4,
        "lowered": 70 * 2,
        # Of three groups a step: one in work, the sum, and one that came ahead.
        "gradients": 3 * 70 * 4,
        "optimizer": 70 * 8,
        "drawing": {
            # Once as it was read, and once more in each branch of the pack.
            "context": 3 * read,
            "buffers": buffers,
            "thinking": read + buffers + LOGIT_COPIES * 4 * 40 * 4,
            "denoising": 3 * read + buffers + 3 * query * 2,
            "decoding": 3 * read + buffers + 4 * 32 * 32,
        },
        # What each has read lies in the pack.
        "learning": {"context": 2 * read, "activations": 50 * query * 2},
        "recomputed": 0,
        # Latents around 3 steps and at the end, pixels, ids and log-probabilities; 3 prompts.
        "trajectories_per_step": 4 * 3 * (5 * 4 * 16 * 4 + 32 * 32 * 3 + 6 * 12),
    }
    assert result.runner == 6720 + 280 + 140 + result.drawing.peak
    assert result.learner == 6720 + (1 + 3 + 2) * 280 + 140 + result.learning.peak


def test_buffers_of_thoughts_stay_on_a_card_unless_thoughts_are_sampled_without() -> None:
    """Also while a card that draws and learns learns; of the largest batch, in whole buckets."""
    config = config_of(rollout={"group_size": 9}, task={"max_think_tokens": 200})
    kept = estimate(config)
    assert kept.drawing.buffers == 9 * 2 * BUCKET * 20
    eager = estimate(config_of(rollout={"group_size": 9, "thinking": "eager"}))
    on_cpu = estimate(config_of(rollout={"group_size": 9}, model={"device": "cpu"}))
    assert eager.drawing.buffers == on_cpu.drawing.buffers == 0
    assert kept.shared >= kept.weights + kept.state + kept.learning.peak + kept.drawing.buffers


def test_thoughts_decide_where_they_are_longer_than_pictures() -> None:
    result = estimate(config_of(task={"max_think_tokens": 200}))
    tokens = 4 * (200 + 2)
    assert result.learning.activations == tokens * (50 * 4 + 40 * 4), "and the vocabulary's columns"
    assert result.learning.context == 4 * (2 + 128 + 200) * 20, "no pack yet"


def test_pictures_are_decoded_four_at_a_time() -> None:
    config = config_of(rollout={"group_size": 9})
    drawing = estimate(config).drawing
    assert drawing.decoding - drawing.context - drawing.buffers == 4 * 32 * 32
    whole = memory_estimate(config, SHAPE, SIZE, handling=Handling(decoded_at_once=14)).drawing
    assert whole.decoding - whole.context - whole.buffers == 9 * 32 * 32


def test_refining_reads_a_picture_and_a_request_and_keeps_every_round() -> None:
    config = config_of("srr", model={"trainable": "lora", "dtype": "float32"})
    # Four latent tokens and sixteen patches of 8 pixels, with two markers each.
    prefix = 2 + 128 + 5 + (4 + 2 + 16 + 2)
    assert task_load(config, SHAPE, "srr") == TaskLoad(3, prefix, window=2, rounds=2)
    assert learnt_loads(config, SHAPE) == [Load(4, 3, prefix, 6, own_pictures=True)]
    result = estimate(config)
    # From the second round on no sample shares what it reads before its thought.
    own = 2 * 4 * prefix * 20
    assert result.learning.context == 4 * (prefix + 6) * 20 * 3 + own
    assert result.drawing.context == 4 * (prefix + 6) * 20 * (1 + 3) + own
    assert result.learning.activations == 4 * 3 * 6 * 50 * 4
    assert result.trajectories_per_step == 4 * 3 * 2 * (4 * 4 * 16 * 4 + 32 * 32 * 3 + 6 * 12)


def test_drafts_and_evaluations_are_drawn_too() -> None:
    evaluation = {"num_plain": 20, "batch_size": 16, "rounds": 1}
    config = config_of("srr", evaluation=evaluation)
    prefix, refined = 2 + 128, 2 + 128 + 5 + 24
    _, drafts, drawn, again = drawn_loads(config, SHAPE)
    assert (drafts.samples, drafts.prefix, drafts.thought) == (7, prefix, 0)
    assert (drawn.samples, drawn.prefix, drawn.own_pictures) == (16, prefix, False)
    assert (again.samples, again.prefix, again.own_pictures) == (16, refined, True)
    assert estimate(config).drawing.peak > estimate(config_of("srr")).drawing.peak
    assert estimate(config).learning == estimate(config_of("srr")).learning
    few = config_of("srr", evaluation={"num_thought": 3, "batch_size": 16})
    assert drawn_loads(few, SHAPE)[-1].samples == 3


def test_a_mixed_run_is_planned_for_its_larger_task() -> None:
    mixed, refining, drawing = (estimate(config_of(kind)) for kind in ("mixed", "srr", "rt2i"))
    assert mixed == refining
    assert mixed.learning.context > drawing.learning.context


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("algorithm", {"image": {"guidance_in_training": False}}),
        ("rollout", {"flow": {"num_points": 6, "window": {"length": 3, "allowed": (0, 4)},
                              "guidance": {"text_scale": 1.0}}}),
    ],
)  # fmt: skip
def test_without_guidance_there_is_one_branch_and_no_pack(
    section: str, change: dict[str, Any]
) -> None:
    config = config_of(**{section: change})
    assert task_load(config, SHAPE, "rt2i").branches == 1
    result = estimate(config)
    assert result.learning.context == result.drawing.context == 4 * (2 + 128 + 6) * 20


def test_the_image_branch_is_of_refinements_with_image_guidance() -> None:
    def branches(config: RunConfig, task: Any) -> int:
        return task_load(config, SHAPE, task).branches

    assert branches(config_of("mixed"), "srr") == 3
    assert branches(config_of("mixed"), "rt2i") == 2
    flow = REFINEMENT["flow"] | {"guidance": {"text_scale": 3.0, "image_scale": 1.0}}
    plain = make_config(task={"kind": "srr"}, refinement=REFINEMENT | {"flow": flow})
    assert branches(plain, "srr") == 2


def test_a_run_without_thinking_keeps_no_thought() -> None:
    config = config_of(task={"think": False}, reward={"format_bonus": 0.0})
    result = estimate(config)
    assert result.drawing.context == 4 * (2 + 128) * 20 * 3
    assert result.drawing.thinking == 0
    assert result.trajectories_per_step == 4 * 3 * (5 * 4 * 16 * 4 + 32 * 32 * 3)


@pytest.mark.parametrize(("dtype", "masters"), [("float32", 0), ("bfloat16", 3000 * 4)])
def test_experts_are_their_own_masters_in_float32(dtype: str, masters: int) -> None:
    result = estimate(config_of(model={"trainable": "experts", "dtype": dtype}))
    assert (result.trainable, result.masters) == (3000, masters)
    assert result.gradients == 3 * 3000 * 4
    assert result.optimizer == 3000 * 8


def test_ranks_share_the_experts_out_and_nothing_else() -> None:
    """A rank of four has 750 of 3,000 weights, and two of two layers whole while it works."""
    sections = {"model": {"trainable": "experts", "dtype": "bfloat16"}}
    alone = estimate(config_of(**sections))
    one = estimate(config_of(**sections, learner={"ranks": 4}, rollout={"prompts_per_step": 4}))
    assert (one.masters, one.gradients, one.optimizer) == (750 * 4, 750 * 4, 750 * 8)
    assert one.rank_weights == (351 + 750) * 2 + 9 * 2
    assert one.gathered == 1500 * (2 * 2 + 4)
    assert one.weights == alone.weights == alone.rank_weights, "runners have them whole"
    state = 750 * 16 + one.learning.peak
    assert one.learner == one.rank_weights + one.gathered + state
    assert (alone.masters, alone.gathered) == (12_000, 0)


@pytest.mark.parametrize(
    ("learner", "prompts", "gradients"),
    [
        ({}, 32, 6),
        ({"groups_ahead": 0}, 32, 2),
        ({"streamed": False}, 32, 2),
        ({"ranks": 16}, 32, 2),
        ({"ranks": 4, "sharded": True}, 32, 2),
        ({}, 1, 1),
    ],
)
def test_gradients_are_of_the_group_in_work_the_sum_and_groups_ahead(
    learner: dict[str, Any], prompts: int, gradients: int
) -> None:
    kind = "experts" if "sharded" in learner else "lora"
    config = config_of(
        model={"trainable": kind}, learner=learner, rollout={"prompts_per_step": prompts}
    )
    each = {"lora": 70, "experts": 750}[kind] * 4
    assert estimate(config).gradients == gradients * each


def test_adapters_are_whole_in_every_rank() -> None:
    found = estimate(config_of(learner={"ranks": 3}))
    assert found.optimizer == estimate(config_of()).optimizer
    assert found.rank_weights == found.weights


def test_a_shared_card_has_one_copy_of_the_weights() -> None:
    found = estimate(config_of(learner={"placement": "runners"}, rollout={"num_runners": 2}))
    most = max(found.learning.peak, found.drawing.peak)
    assert found.shared == found.weights + found.state + most
    experts = {"model": {"trainable": "experts", "dtype": "bfloat16"}}
    both = estimate(
        config_of(**experts, learner={"placement": "runners"}, rollout={"num_runners": 2})
    )
    assert both.masters == 1500 * 4, "every runner is a rank"
    drawing = replace(both, drawing=replace(both.drawing, thinking=10**9))
    assert drawing.shared == both.weights + both.state + 10**9, "one after the other"


def test_a_slice_is_what_is_held_at_a_time() -> None:
    whole, sliced = estimate(config_of()), estimate(config_of(rollout={"slices": 3}))
    assert sliced.learning.activations == whole.learning.activations / 2, "two of four at most"
    assert sliced.learning.context == whole.learning.context / 2
    assert sliced.trajectories_per_step == whole.trajectories_per_step


@pytest.mark.parametrize(
    ("recompute", "layers"), [("none", 0), (False, 0), ("all", 2), (True, 2), ("auto", 2), (3.5, 2)]
)
def test_layers_are_recomputed_as_far_as_the_config_admits(recompute: Any, layers: int) -> None:
    config = config_of(learner={"recompute": recompute})
    result = estimate(config)
    assert result.recomputed == layers
    assert result.learning.activations == 4 * 2 * 6 * (50 - 7 * layers) * 4
    one = memory_estimate(config, SHAPE, SIZE, recomputed=1)
    assert one.learning.activations == 4 * 2 * 6 * 43 * 4


@pytest.mark.parametrize("recompute", ["some", 0, -3, None, [28]])
def test_what_is_no_budget_is_refused_with_the_choices(recompute: Any) -> None:
    with pytest.raises(ValueError, match="one of none, all, auto, or the GB"):
        config_of(learner={"recompute": recompute})


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
def test_the_size_is_of_the_folder_where_there_is_one(
    tmp_path: Path, dtype: str, width: int
) -> None:
    model = random_bagel(tiny_config(), 0)
    save_bagel(model, tmp_path)
    section = {"path": str(tmp_path), "dtype": dtype, "lora": {"rank": 3}}
    shape, size = model_size(config_of(model=section))
    assert shape == BagelShape(tiny_config())
    assert not size.assumed
    # Keys and values of two layers, two heads of eight values each.
    assert size.kv_bytes_per_token == 2 * 2 * 2 * 8 * width
    # Of two layers and two experts: q and o 32 to 32, k and v 32 to 16, the three of the MLP.
    assert size.lora == 4 * 3 * (2 * 64 + 2 * 48 + 3 * 80)
    tensors = [*model.state_dict().values(), *model.autoencoder.parameters()]
    assert size.total == sum(tensor.numel() for tensor in tensors)
    section["path"] = str(tmp_path / "absent")
    assumed, _ = model_size(config_of(model=section))
    assert assumed == BagelShape.released()
