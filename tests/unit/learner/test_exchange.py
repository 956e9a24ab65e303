"""Sums over real processes with gloo: the same bits on every rank, and an end to waiting."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing as mp
from torch import nn

from alphagrpo.errors import LearnerLost
from alphagrpo.learner import exchange as module
from alphagrpo.learner.exchange import Alone, TorchExchange, find_store, open_store

NUM_RANKS = 3
SHAPES = ((5, 3), (4,), (2, 2), (3,))
DEADLINE_S = 60.0
pytestmark = pytest.mark.timeout(300)


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]


def own_gradients(rank: int) -> list[torch.Tensor | None]:
    """None has a gradient of the last; the third is rank 1's alone."""
    generator = torch.Generator().manual_seed(rank)
    gradients: list[Any] = [torch.randn(shape, generator=generator) for shape in SHAPES]
    gradients[3] = None
    if rank != 1:
        gradients[2] = None
    return gradients


def work(rank: int, port: int, folder: str) -> None:
    """What each process does: sum twice, then the last rank leaves the others waiting."""
    torch.set_num_threads(1)
    module.BUCKET_VALUES = 16
    store = find_store("127.0.0.1", port, NUM_RANKS, DEADLINE_S)
    exchange = TorchExchange(store, rank, NUM_RANKS, DEADLINE_S)
    sums = [exchange.sum(own_gradients(rank), parameters()) for _ in range(2)]
    nothing = exchange.sum(None if rank else own_gradients(0), parameters())
    story: dict[str, Any] = {"sums": sums, "nothing": nothing, "error": ""}
    if rank < NUM_RANKS - 1:
        try:
            exchange.sum(own_gradients(rank), parameters())
        except LearnerLost as error:
            story["error"] = str(error)
    torch.save(story, Path(folder, f"{rank}.pt"))


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    store = open_store("127.0.0.1", NUM_RANKS, DEADLINE_S)
    mp.spawn(work, (store.port, str(folder)), nprocs=NUM_RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(NUM_RANKS)]


def test_the_sum_is_that_of_all_ranks_and_the_same_on_each(stories: Any) -> None:
    expected = [sum(own_gradients(rank)[index] for rank in range(NUM_RANKS)) for index in range(2)]
    first = stories[0]["sums"][0]
    for index in range(2):
        torch.testing.assert_close(first[index], expected[index])
    assert torch.equal(first[2], own_gradients(1)[2]), "the others count as 0"
    assert first[3] is None, "nobody has one"
    for story in stories:
        for again in story["sums"]:
            assert all(torch.equal(again[i], first[i]) for i in range(3)), "bit for bit"


def test_a_rank_without_a_group_takes_part(stories: Any) -> None:
    for story in stories:
        assert torch.equal(story["nothing"][0], own_gradients(0)[0])
        assert story["nothing"][2] is None


def test_ranks_that_are_left_say_so(stories: Any) -> None:
    for rank in range(NUM_RANKS - 1):
        assert f"rank {rank} of 3 waited in vain" in stories[rank]["error"]


def test_whoever_waits_for_ranks_that_never_come_gives_up() -> None:
    store = open_store("127.0.0.1", 2, 1.0)
    started = time.monotonic()
    with pytest.raises(LearnerLost, match=r"learner\.deadline_s \(1 s\), rank 0 of 2"):
        TorchExchange(store, 0, 2, 1.0)
    assert time.monotonic() - started < 60


def test_a_learner_without_others_keeps_its_gradients() -> None:
    gradients = own_gradients(1)
    assert Alone().sum(gradients, parameters()) is gradients
    assert Alone().sum(None, parameters()) == [None] * 4
