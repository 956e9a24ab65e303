"""Advantages: formula, masking, ties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphagrpo.algorithms import group_advantages, step_advantages

REWARDS = torch.tensor([[0.0, 1.0, 2.0, 1.0], [5.0, 5.0, 7.0, 7.0]])
ALL = torch.ones_like(REWARDS, dtype=torch.bool)


def test_group_std_is_the_groups_own_population_std():
    got = group_advantages(REWARDS, ALL, std="group", epsilon=0.0).values
    centred = REWARDS - REWARDS.mean(1, keepdim=True)
    assert torch.allclose(got, centred / REWARDS.std(1, correction=0, keepdim=True))


def test_batch_std_is_over_all_rewards_with_group_means():
    got = group_advantages(REWARDS, ALL, std="batch").values
    centred = REWARDS - REWARDS.mean(1, keepdim=True)
    assert torch.allclose(got, centred / (REWARDS.std(correction=0) + 1e-4))


@pytest.mark.parametrize("std", ["batch", "group"])
def test_a_tied_group_teaches_nothing_exactly(std):
    rewards = torch.full((2, 3), 0.1)
    rewards[1] = torch.tensor([0.2, 0.9, 0.4])
    values = group_advantages(rewards, torch.ones(2, 3).bool(), std=std).values
    assert torch.equal(values[0], torch.zeros(3))
    assert values[1].abs().min() > 0


@pytest.mark.parametrize("std", ["batch", "group"])
def test_invalid_samples_leave_the_statistics_of_the_others_alone(std):
    rewards = torch.tensor([[0.0, 1.0, 2.0, 99.0], [5.0, 6.0, 9.0, math.nan]])
    valid = torch.tensor([[True, True, True, False]] * 2)
    got = group_advantages(rewards, valid, std=std)
    alone = group_advantages(rewards[:, :3], valid[:, :3], std=std)
    assert torch.equal(got.values[:, :3], alone.values)
    assert torch.equal(got.values[:, 3], torch.zeros(2))
    assert torch.equal(got.weights, valid.float())


@pytest.mark.parametrize("std", ["batch", "group"])
def test_groups_with_one_or_no_valid_sample_get_zero(std):
    valid = torch.tensor([[True, False, False, False], [False] * 4])
    got = group_advantages(REWARDS, valid, std=std)
    assert torch.equal(got.values, torch.zeros(2, 4))


@given(
    rewards=st.lists(
        st.lists(st.floats(0, 2, width=32), min_size=4, max_size=4), min_size=1, max_size=4
    ),
    mask=st.integers(0, 2**16 - 1),
    std=st.sampled_from(["batch", "group"]),
)
@settings(max_examples=80, deadline=None)
def test_advantages_sum_to_zero_per_group_and_keep_the_order(rewards, mask, std):
    table = torch.tensor(rewards)
    valid = torch.tensor([bool(mask >> i & 1) for i in range(table.numel())]).view_as(table)
    values = group_advantages(table, valid, std=std).values
    assert torch.isfinite(values).all()
    assert values.sum(1).abs().max() < 1e-4
    for p in range(table.shape[0]):
        order = table[p][valid[p]].argsort(stable=True)
        assert (values[p][valid[p]][order].diff() >= -1e-6).all()


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="groups, samples"):
        group_advantages(REWARDS[0], ALL[0], std="group")
    with pytest.raises(ValueError, match="not finite"):
        group_advantages(REWARDS * math.nan, ALL, std="group")
    with pytest.raises(ValueError, match="'batch' or 'group'"):
        group_advantages(REWARDS, ALL, std="global")


def test_a_step_spreads_over_one_task_and_so_many_prompts_at_a_time():
    """Rewards of one task are ten times those of the other; three prompts in parts of two."""
    rewards = torch.stack([REWARDS[0], 10 * REWARDS[1], REWARDS[1], REWARDS[0] ** 2])
    valid = torch.ones_like(rewards, dtype=torch.bool)
    tasks = ["rt2i", "srr", "rt2i", "rt2i"]
    got = step_advantages(rewards, valid, tasks, std="batch", prompts=2).values
    pair = group_advantages(rewards[[0, 2]], valid[[0, 2]], std="batch").values
    assert torch.equal(got[[0, 2]], pair)
    for alone in (1, 3):
        own = group_advantages(rewards[[alone]], valid[[alone]], std="batch").values
        assert torch.equal(got[[alone]], own)
    together = step_advantages(rewards, valid, ["rt2i"] * 4, std="batch").values
    assert torch.equal(together, group_advantages(rewards, valid, std="batch").values)
    # With the group's own spread neither the tasks nor the parts matter.
    grouped = step_advantages(rewards, valid, tasks, std="group", prompts=2).values
    assert torch.equal(grouped, group_advantages(rewards, valid, std="group").values)
