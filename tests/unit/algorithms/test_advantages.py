"""Advantages: formula, samples without a reward, ties."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphagrpo.algorithms.advantages import group_advantages

REWARDS = [[0.0, 1.0, 2.0, 1.0], [5.0, 5.0, 7.0, 7.0]]


def plain(rewards, spreads, epsilon=1e-4):
    return [
        pytest.approx([(r - statistics.fmean(group)) / (s + epsilon) for r in group], rel=1e-6)
        for group, s in zip(rewards, spreads, strict=True)
    ]


def test_group_std_is_the_groups_own_population_std():
    spreads = [statistics.pstdev(group) for group in REWARDS]
    assert group_advantages(REWARDS, std="group", epsilon=0.0) == plain(REWARDS, spreads, 0.0)


def test_batch_std_is_over_all_rewards_with_group_means():
    spread = statistics.pstdev([r for group in REWARDS for r in group])
    assert group_advantages(REWARDS, std="batch") == plain(REWARDS, [spread] * 2)


def test_values_are_float32_as_the_losses_take_them():
    values = [value for group in group_advantages(REWARDS, std="batch") for value in group]
    assert values == torch.tensor(values, dtype=torch.float32).tolist()
    assert values != [value + 1e-12 for value in values], "and Python's numbers are finer"


@pytest.mark.parametrize("std", ["batch", "group"])
def test_a_tied_group_teaches_nothing_exactly(std):
    tied, other = group_advantages([[0.1] * 3, [0.2, 0.9, 0.4]], std=std)
    assert tied == (0.0, 0.0, 0.0)
    assert all(other)


@pytest.mark.parametrize("std", ["batch", "group"])
def test_samples_without_a_reward_leave_the_statistics_of_the_others_alone(std):
    values = group_advantages([[0.0, None, 1.0, 2.0], [5.0, 6.0, 9.0, None]], std=std)
    alone = group_advantages([[0.0, 1.0, 2.0], [5.0, 6.0, 9.0]], std=std)
    assert values == [(alone[0][0], 0.0, *alone[0][1:]), (*alone[1], 0.0)]


@pytest.mark.parametrize("std", ["batch", "group"])
def test_groups_with_one_reward_or_none_get_zero(std):
    values = group_advantages([[1.0, None, None], [None] * 3, REWARDS[0]], std=std)
    assert values[:2] == [(0.0, 0.0, 0.0)] * 2
    assert any(values[2])


@given(
    rewards=st.lists(
        st.lists(st.none() | st.floats(0, 2, width=32), min_size=4, max_size=4),
        min_size=1,
        max_size=4,
    ),
    std=st.sampled_from(["batch", "group"]),
)
@settings(max_examples=80, deadline=None)
def test_advantages_sum_to_zero_per_group_and_keep_the_order(rewards, std):
    for group, values in zip(rewards, group_advantages(rewards, std=std), strict=True):
        assert all(map(math.isfinite, values))
        assert abs(math.fsum(values)) < 1e-4
        known = sorted((r, a) for r, a in zip(group, values, strict=True) if r is not None)
        for (_, lower), (_, higher) in itertools.pairwise(known):
            assert lower <= higher


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        group_advantages([[math.nan, 1.0]], std="group")
    with pytest.raises(ValueError, match="'batch' or 'group'"):
        group_advantages(REWARDS, std="global")
