"""The generation queue: batches in order of arrival, a bound, failures that stay where they are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from alphagrpo.errors import BadImage, Overloaded
from alphagrpo.ports import PictureRequest
from alphagrpo.rollout.generation_queue import GenerationQueue
from alphagrpo.types import Prompt


def request(seed: int) -> PictureRequest:
    return PictureRequest(prompt=Prompt(id="p", text="x"), seed=seed)


class SlowWorker:
    """Draws a request's seed once it may; refuses seed 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_draw = threading.Event()

    def draw(self, requests: Sequence[PictureRequest]) -> list[int]:
        assert self.may_draw.wait(10)
        self.batches.append([r.seed for r in requests])
        if 13 in self.batches[-1]:
            raise BadImage("thirteen is no picture; take another")
        return [r.seed for r in requests]


async def test_requests_of_many_callers_share_batches_in_order() -> None:
    worker = SlowWorker()
    queue = GenerationQueue(worker, max_batch=3)
    tasks = [asyncio.create_task(queue.draw([request(i), request(10 + i)])) for i in range(4)]
    await asyncio.sleep(0.01)
    worker.may_draw.set()
    assert await asyncio.gather(*tasks[:3]) == [(0, 10), (1, 11), (2, 12)]
    with pytest.raises(BadImage):
        await tasks[3]
    assert [seed for batch in worker.batches for seed in batch] == [0, 10, 1, 11, 2, 12, 3, 13]
    assert max(map(len, worker.batches)) <= 3
    assert await queue.draw([request(7)]) == (7,), "a failed batch ends nothing"
    queue.close()


async def test_a_full_queue_refuses_whole_requests_at_once() -> None:
    worker = SlowWorker()
    queue = GenerationQueue(worker, max_batch=1, max_queued=2)
    first = asyncio.create_task(queue.draw([request(1)]))
    await asyncio.sleep(0.01)  # in hand now, no longer queued
    second = asyncio.create_task(queue.draw([request(2)]))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="2 pictures may wait"):
        await queue.draw([request(3), request(4)])
    assert queue.queued == 1, "nothing of a refused request waits"
    worker.may_draw.set()
    assert await asyncio.gather(first, second) == [(1,), (2,)]
    queue.close()


async def test_a_caller_that_gives_up_is_not_drawn_for() -> None:
    worker = SlowWorker()
    queue = GenerationQueue(worker, max_batch=1)
    kept = asyncio.create_task(queue.draw([request(1)]))
    gone = asyncio.create_task(queue.draw([request(2), request(3)]))
    last = asyncio.create_task(queue.draw([request(4)]))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.sleep(0)
    worker.may_draw.set()
    assert await asyncio.gather(kept, last) == [(1,), (4,)]
    assert worker.batches == [[1], [4]]
    queue.close()


async def test_work_between_batches_never_overlaps_drawing() -> None:
    worker, order = SlowWorker(), []
    queue = GenerationQueue(worker, max_batch=1)
    drawing = asyncio.create_task(queue.draw([request(1)]))
    await asyncio.sleep(0.01)
    changing = asyncio.create_task(
        queue.between_batches(lambda: order.append(list(worker.batches)))
    )
    await asyncio.sleep(0.01)
    assert order == []
    worker.may_draw.set()
    await asyncio.gather(drawing, changing)
    assert order == [[[1]]]
    queue.close()
