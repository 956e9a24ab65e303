"""Waiting for actors that may have no node: what is said, and when it ends."""

from __future__ import annotations

import asyncio
import re
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from actors import waiting
from actors.waiting import StartWatch, what_is_missing
from alphagrpo.capacity import LEARNER, RUNNER, Node
from alphagrpo.errors import EnvironmentProblem, WeightsError
from tests.fakes import make_config

ACTORS = {LEARNER: ["learner"], RUNNER: ["first", "second"]}


@pytest.fixture(autouse=True)
def story(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "what_is_missing", lambda _, actors: f"the {' and '.join(actors)}")
    monkeypatch.setattr(waiting, "FIRST_WORD_S", 0.02)


def watch(told: list[Any], deadline_s: float = 60.0) -> StartWatch:
    clock = time.perf_counter
    config = make_config(placement={"deadline_s": deadline_s})
    return StartWatch(config, lambda text: told.append((clock(), text)))


async def late(answer: Any, seconds: float) -> Any:
    await asyncio.sleep(seconds)
    if isinstance(answer, Exception):
        raise answer
    return answer


async def never(gone: asyncio.Event) -> None:
    """An answer that does not come; ``gone`` once nobody waits for it any more."""
    try:
        await asyncio.sleep(60)
    finally:
        gone.set()


async def test_answers_in_time_come_without_a_word() -> None:
    told: list[Any] = []
    assert await watch(told).wait(late("yes", 0), lambda: ACTORS) == "yes"
    assert told == []


async def test_what_is_waited_for_is_told_at_doubling_intervals() -> None:
    told: list[Any] = []

    async def after_three_words() -> str:
        while len(told) < 3:  # noqa: ASYNC110 (told in between)
            await asyncio.sleep(0.002)
        return "yes"

    began = time.perf_counter()
    assert await watch(told).wait(after_three_words(), lambda: ACTORS) == "yes"
    assert {text for _, text in told} == {"waiting for the learner and rollout runner"}
    times = [began, *(moment for moment, _ in told)]
    pauses = [after - before for before, after in pairwise(times)]
    assert all(pause >= 0.019 * 2**i for i, pause in enumerate(pauses))


async def test_the_deadline_ends_the_wait_and_what_was_awaited() -> None:
    gone = asyncio.Event()
    with pytest.raises(EnvironmentProblem, match=r"deadline_s, after 0\.05 s .* learner"):
        await watch([], deadline_s=0.05).wait(never(gone), lambda: ACTORS)
    await asyncio.wait_for(gone.wait(), 5)


async def test_what_an_actor_could_not_do_is_raised() -> None:
    with pytest.raises(WeightsError, match="no model"):
        await watch([]).wait(late(WeightsError("no model"), 0.05), lambda: ACTORS)


async def test_a_wait_that_is_cancelled_cancels_what_it_awaits() -> None:
    gone = asyncio.Event()
    task = asyncio.create_task(watch([]).wait(never(gone), lambda: ACTORS))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.wait_for(gone.wait(), 5)


@pytest.mark.parametrize(
    ("alive", "pending", "words"),
    [
        ({"learner"}, {RUNNER: 5}, "^2 rollout runners without a node .* the freest has 3 CPU"),
        ({"learner"}, {RUNNER: 1}, "1 rollout runner without a node .*; 1 rollout runner to start"),
        ({"first"}, {}, "^1 rollout runner, 1 learner to start and to load the model$"),
        ({"first", "second", "learner"}, {RUNNER: 9}, "^the first answers of processes that run$"),
    ],
)
def test_who_has_no_node_is_told_from_who_has_one(
    alive: set[str], pending: dict[str, int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = SimpleNamespace(
        free_nodes=lambda: [Node(cpus=3, gpus=0)],
        is_alive=lambda handle: handle in alive,
        unplaced=lambda role: pending.get(role.name, 0),
    )
    for name, function in vars(cluster).items():
        monkeypatch.setattr(waiting, name, function)
    config = make_config(rollout={"num_runners": 2})
    assert re.search(words, what_is_missing(config, ACTORS))
