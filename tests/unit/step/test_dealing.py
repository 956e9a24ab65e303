"""Who replays what: from the config and the prompt order alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from alphagrpo.config import RunConfig
from alphagrpo.step.dealing import Dealer, replay_tokens
from tests.fakes import make_config


def config_of(ranks: int = 1, slices: int = 1, **sections: Any) -> RunConfig:
    return make_config(
        rollout={"slices": slices, "prompts_per_step": 8}, learner={"ranks": ranks}, **sections
    )


def refining(**drafts: Any) -> RunConfig:
    return config_of(
        3,
        task={"kind": "srr"},
        refinement={
            "prompt": "{prompt}",
            "rounds": 2,
            "flow": {"num_points": 6, "window": {"length": 3, "allowed": (0, 4)}},
            "drafts": drafts,
        },
    )


def test_groups_of_one_task_are_dealt_in_turn() -> None:
    dealer = Dealer(config_of(3))
    assert [dealer.deal("rt2i") for _ in range(5)] == [(0,), (1,), (2,), (0,), (1,)]


def test_slices_go_to_different_ranks() -> None:
    dealer = Dealer(config_of(4, slices=3))
    assert [dealer.deal("rt2i") for _ in range(3)] == [(0, 1, 2), (3, 0, 1), (2, 3, 0)]


def test_a_rank_with_dear_groups_gets_fewer() -> None:
    config = refining(num=3)
    assert replay_tokens(config, "srr") > 1.5 * replay_tokens(config, "rt2i")
    dealer = Dealer(config)
    tasks = ["srr", "rt2i", "rt2i", "rt2i", "rt2i"]
    counts = Counter(rank for task in tasks for rank in dealer.deal(task))
    assert counts[0] < counts[1]


def test_trained_drafts_are_replayed_too() -> None:
    drawn, trained = refining(num=3), refining(trained=True)
    extra = replay_tokens(trained, "srr") - replay_tokens(drawn, "srr")
    assert extra == replay_tokens(trained, "rt2i")


def test_what_is_not_trained_costs_nothing() -> None:
    config = config_of(algorithm={"image": {"enabled": False}})
    assert replay_tokens(config, "rt2i") == config.task.max_think_tokens / 2
