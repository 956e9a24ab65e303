"""The arithmetic of memory, against sums done by hand for the tiny model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from alphagrpo.config import RunConfig
from alphagrpo.models.bagel.checkpoint import random_bagel, save_bagel
from alphagrpo.models.bagel.config import tiny_config
from alphagrpo.models.bagel.sizes import BagelShape
from alphagrpo.policy.memory import (
    MemoryEstimate,
    ModelSize,
    TaskLoad,
    memory_estimate,
    model_size,
    task_load,
)
from tests.fakes import make_config

SHAPE = BagelShape(tiny_config())
SIZE = ModelSize(
    understanding=1000,
    generation=2000,
    embeddings=300,
    vision=40,
    autoencoder=5,
    other=6,
    lora=70,
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
PER_TOKEN = 2 * (7 * 32 + 2 * 16 + 4 * 48)
"""Values that one token keeps for the backward pass: two layers of hidden 32, inner 48."""


def config_of(kind: str = "rt2i", **sections: Any) -> RunConfig:
    refinement = None if kind == "rt2i" else REFINEMENT
    task = {"kind": kind, **sections.pop("task", {})}
    return make_config(task=task, refinement=refinement, **sections)


def estimate(config: RunConfig) -> MemoryEstimate:
    return memory_estimate(config, SHAPE, SIZE)


def test_drawing_with_adapters_is_the_sum_of_its_parts() -> None:
    """Four samples of 32 x 32 pixels: 4 tokens of 16 channels; 2 branches; thoughts of 6."""
    result = estimate(config_of(model={"trainable": "lora", "dtype": "bfloat16"}))
    context = 4 * (2 + 128 + 6) * 10
    assert asdict(result) == {
        "tokens_per_image": 4,
        "weights": 3351 * 2,
        "rank_weights": 3351 * 2,
        "gathered": 0,
        "trainable": 70,
        "masters": 70 * 4,
        "gradients": 70 * 4,
        "optimizer": 70 * 8,
        # Once as it was read, and once more in each branch of the pack.
        "context_per_group": context * 3,
        "activations": 4 * 2 * (4 + 2) * PER_TOKEN * 2,
        # Latents around 3 steps and at the end, pixels, ids and log-probabilities; 3 prompts.
        "trajectories_per_step": 4 * 3 * (5 * 4 * 16 * 4 + 32 * 32 * 3 + 6 * 12),
    }
    held = 6702 + context * 3
    assert result.runner == held + 280
    assert result.learner == held + 280 + 280 + 560 + 4 * 2 * 6 * PER_TOKEN * 2


def test_refining_reads_a_picture_and_a_request_and_keeps_every_round() -> None:
    config = config_of("srr", model={"trainable": "lora", "dtype": "float32"})
    # Four latent tokens and sixteen patches of 8 pixels, with two markers each.
    prefix = 2 + 128 + 5 + (4 + 2 + 16 + 2)
    assert task_load(config, SHAPE, "srr") == TaskLoad(3, prefix, window=2, rounds=2)
    result = estimate(config)
    assert result.context_per_group == 4 * (prefix + 6) * 10 * (1 + 3)
    assert result.activations == 4 * 3 * 6 * PER_TOKEN * 4
    assert result.trajectories_per_step == 4 * 3 * 2 * (4 * 4 * 16 * 4 + 32 * 32 * 3 + 6 * 12)


def test_a_mixed_run_is_planned_for_its_larger_task() -> None:
    mixed, refining, drawing = (estimate(config_of(kind)) for kind in ("mixed", "srr", "rt2i"))
    assert mixed == refining
    assert mixed.context_per_group > drawing.context_per_group


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
    assert result.context_per_group == 4 * (2 + 128 + 6) * 10
    assert result.activations == 4 * (4 + 2) * PER_TOKEN * 4


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
    assert result.context_per_group == 4 * (2 + 128) * 10 * 3
    assert result.trajectories_per_step == 4 * 3 * (5 * 4 * 16 * 4 + 32 * 32 * 3)


@pytest.mark.parametrize(("dtype", "masters"), [("float32", 0), ("bfloat16", 3000 * 4)])
def test_experts_are_their_own_masters_in_float32(dtype: str, masters: int) -> None:
    result = estimate(config_of(model={"trainable": "experts", "dtype": dtype}))
    assert (result.trainable, result.masters) == (3000, masters)
    assert result.gradients == 3000 * 4
    assert result.optimizer == 3000 * 8


def test_ranks_share_the_experts_out_and_nothing_else() -> None:
    """A rank of four has 750 of 3,000 weights, and two of two layers whole while it works."""
    sections = {"model": {"trainable": "experts", "dtype": "bfloat16"}}
    alone = estimate(config_of(**sections))
    one = estimate(config_of(**sections, learner={"ranks": 4}, rollout={"prompts_per_step": 4}))
    assert (one.masters, one.gradients, one.optimizer) == (750 * 4, 750 * 4, 750 * 8)
    assert one.rank_weights == (351 + 750) * 2
    assert one.gathered == 1500 * (2 * 2 + 4)
    assert one.weights == alone.weights == alone.rank_weights, "runners have them whole"
    state = 750 * 16 + one.context_per_group + one.activations
    assert one.learner == one.rank_weights + one.gathered + state
    assert (alone.masters, alone.gathered) == (12_000, 0)


def test_adapters_are_whole_in_every_rank() -> None:
    assert estimate(config_of(learner={"ranks": 3})) == estimate(config_of())


def test_a_shared_card_has_one_copy_of_the_weights() -> None:
    found = estimate(config_of(learner={"placement": "runners"}, rollout={"num_runners": 2}))
    assert found.shared == found.learner == estimate(config_of()).learner
    experts = {"model": {"trainable": "experts", "dtype": "bfloat16"}}
    both = estimate(
        config_of(**experts, learner={"placement": "runners"}, rollout={"num_runners": 2})
    )
    assert both.masters == 1500 * 4, "every runner is a rank"
    assert both.shared == both.weights + 1500 * 16 + both.context_per_group + both.activations


def test_a_slice_is_what_is_held_at_a_time() -> None:
    whole, sliced = estimate(config_of()), estimate(config_of(rollout={"slices": 3}))
    assert sliced.activations == whole.activations / 2, "two of four samples at most"
    assert sliced.context_per_group == whole.context_per_group / 2
    assert sliced.trajectories_per_step == whole.trajectories_per_step


def test_recomputing_keeps_the_inputs_of_layers_and_one_layer() -> None:
    result = estimate(config_of(learner={"recompute": True}))
    assert result.activations == 4 * 2 * 6 * (2 * (32 + 32) + PER_TOKEN // 2) * 4


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
def test_the_size_is_of_the_folder_where_there_is_one(
    tmp_path: Path, dtype: str, width: int
) -> None:
    model = random_bagel(tiny_config(), 0)
    save_bagel(model, tmp_path)
    section = {"path": str(tmp_path), "dtype": dtype, "lora": {"rank": 3}}
    shape, size = model_size(config_of(model=section))
    assert shape == SHAPE
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
