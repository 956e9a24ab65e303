"""The pool over runners that are plain objects: who gets a job, and what a death does to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError

from actors import runners as runners_module
from actors import waiting
from actors.parts import Part
from actors.pool import RayRolloutPool
from alphagrpo import deadlines as deadlines_module
from alphagrpo.errors import EnvironmentProblem, NoQuestions
from alphagrpo.ports import GroupReport, Picture, PictureRequest
from alphagrpo.types import RolloutJob
from tests.fakes import make_config, make_job, make_prompts, make_questions

VERIFIER = Part("nowhere:verifier")
AWAY = ActorUnavailableError("away", None)
LOST = ObjectLostError("ff" * 28, None, "")


class FakeMethod:
    """An actor's method: ``options`` change nothing, ``remote`` begins the call."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call

    def options(self, **options: Any) -> FakeMethod:
        return self


class FakeRunner:
    """A runner whose jobs end when they are let go, or with the next of ``errors``."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.errors: list[Exception] = []
        self.status_errors: list[Exception] = []
        self.jobs: list[RolloutJob] = []
        self.batches: list[tuple[PictureRequest, ...]] = []
        self.active = self.most_active = 0
        self.go = asyncio.Event()
        self.go.set()
        self.hangs = asyncio.Event()
        """Not set: it does not even say that it lives."""
        self.hangs.set()
        self.roll_out = FakeMethod(lambda job, *_: (self._report(job), f"group by {index}"))
        self.draw = FakeMethod(self._draw)
        self.status = FakeMethod(self._status)

    async def _busy(self) -> None:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await self.go.wait()
            await asyncio.sleep(0.001)
            if self.errors:
                raise self.errors.pop(0)
        finally:
            self.active -= 1

    async def _report(self, job: RolloutJob) -> GroupReport:
        self.jobs.append(job)
        await self._busy()
        return GroupReport(
            job=job, questions=make_questions("x"), samples=(), reference=None,
            runner=f"rollout-{self.index}",
        )  # fmt: skip

    async def _draw(self, batch: tuple[PictureRequest, ...], version: int) -> tuple[Picture, ...]:
        self.batches.append(batch)
        await self._busy()
        pixels = np.zeros((2, 2, 3), np.uint8)
        return tuple(
            Picture(prompt=r.prompt, thought=str(r.seed), pixels=pixels, policy_version=version)
            for r in batch
        )

    async def _status(self) -> dict[str, Any]:
        await self.hangs.wait()
        if self.status_errors:
            raise self.status_errors.pop(0)
        return {"name": f"rollout-{self.index}"}


class FakeCluster:
    """Starts and kills runners."""

    def __init__(self) -> None:
        self.started: list[FakeRunner] = []
        self.killed: list[FakeRunner] = []

    def start(self, config: Any, index: int, verifier: Part) -> FakeRunner:
        assert verifier is VERIFIER
        self.started.append(FakeRunner(index))
        return self.started[-1]

    def kill(self, runner: FakeRunner, *, no_restart: bool) -> None:
        assert no_restart
        self.killed.append(runner)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    fake = FakeCluster()
    monkeypatch.setattr(runners_module, "start_runner", fake.start)
    monkeypatch.setattr(runners_module.ray, "kill", fake.kill)
    return fake


def pool_of(
    runners: int = 2,
    in_flight: int = 2,
    deadline_s: float = 60.0,
    deadlines: Mapping[str, float] | None = None,
    **rollout: Any,
) -> RayRolloutPool:
    config = make_config(
        rollout={"num_runners": runners, "groups_in_flight": in_flight, **rollout},
        placement={"deadline_s": deadline_s},
        deadlines=deadlines or {},
        evaluation={"batch_size": 3},
    )
    return RayRolloutPool(config, VERIFIER)


def job_of(prompt: int) -> RolloutJob:
    return make_job(make_prompts(20)[prompt], make_config())


def roll_out(pool: RayRolloutPool, prompt: int) -> Awaitable[GroupReport]:
    return asyncio.create_task(pool.roll_out(job_of(prompt), make_questions("x")))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_jobs_go_to_the_runner_with_the_fewest_and_wait_where_all_are_full(cluster) -> None:
    pool = pool_of(runners=3, in_flight=2)
    assert pool.size == 6
    for runner in cluster.started:
        runner.go.clear()
    tasks = [roll_out(pool, prompt) for prompt in range(8)]
    await settle()
    places = [[job.prompt.id for job in runner.jobs] for runner in cluster.started]
    assert places == [["p0", "p3"], ["p1", "p4"], ["p2", "p5"]]
    cluster.started[1].go.set()
    await asyncio.wait(tasks[1::3])
    await settle()
    assert [job.prompt.id for job in cluster.started[1].jobs] == ["p1", "p4", "p6", "p7"]
    for runner in cluster.started:
        runner.go.set()
    reports = await asyncio.gather(*tasks)
    assert [report.job.prompt.id for report in reports] == [f"p{i}" for i in range(8)]
    assert {runner.most_active for runner in cluster.started} == {2}
    assert reports[4].reference == "group by 1"


@pytest.mark.parametrize("error", [AWAY, LOST], ids=["runner", "object"])
async def test_a_lost_job_moves_on_with_its_seeds_and_the_runner_returns(cluster, error) -> None:
    pool = pool_of(runners=2, in_flight=1)
    first, second = cluster.started
    first.errors = [error]
    first.status_errors = [AWAY]
    report = await roll_out(pool, 5)
    assert report.runner == "rollout-1"
    assert first.jobs == second.jobs == [job_of(5)]
    assert [s["name"] for s in await pool.status()] == ["rollout-1"], "the other is not back yet"
    while pool.restarts == 0:  # noqa: ASYNC110 (the pool tells nobody)
        await asyncio.sleep(0.01)
    assert len(await pool.status()) == 2
    assert (await roll_out(pool, 6)).runner == "rollout-0"
    assert (len(cluster.started), cluster.killed) == (2, [])


async def test_jobs_wait_for_the_only_runner_to_come_back(cluster) -> None:
    pool = pool_of(runners=1, in_flight=2)
    (runner,) = cluster.started
    runner.errors = [AWAY, AWAY]
    reports = await asyncio.gather(*(roll_out(pool, prompt) for prompt in range(4)))
    assert [report.job.prompt.id for report in reports] == ["p0", "p1", "p2", "p3"]
    assert pool.restarts == 1, "two jobs were lost with one death"
    assert Counter(job.prompt.id for job in runner.jobs) == {"p0": 2, "p1": 2, "p2": 1, "p3": 1}


async def test_a_runner_that_ray_gave_up_is_replaced_in_its_place(cluster) -> None:
    pool = pool_of(runners=1)
    (first,) = cluster.started
    first.errors, first.status_errors = [ActorDiedError()], [ActorDiedError()]
    report = await roll_out(pool, 0)
    assert report.runner == "rollout-0"
    assert cluster.killed == [first]
    assert len(cluster.started) == 2
    assert cluster.started[1].jobs == [job_of(0)]
    pool.close()
    assert cluster.killed == [first, cluster.started[1]]


async def test_a_silent_runner_is_ended_and_replaced_like_a_dead_one(cluster, monkeypatch) -> None:
    monkeypatch.setattr(deadlines_module, "FIRST_WORD_S", 0.02)
    pool = pool_of(runners=2, in_flight=1, deadlines={"ping_s": 0.05})
    first, second = cluster.started
    first.go.clear()
    first.hangs.clear()
    report = await asyncio.wait_for(roll_out(pool, 3), 10)
    assert (report.runner, second.jobs) == ("rollout-1", [job_of(3)])
    assert cluster.killed == [first]
    # As Ray says of a process that was killed.
    first.status_errors = [ActorDiedError()]
    first.hangs.set()
    while pool.restarts == 0:  # noqa: ASYNC110 (the pool tells nobody)
        await asyncio.sleep(0.01)
    assert [runner.index for runner in cluster.started] == [0, 1, 0]
    reports = await asyncio.gather(*(roll_out(pool, prompt) for prompt in range(2)))
    assert {report.runner for report in reports} == {"rollout-0", "rollout-1"}


async def test_a_late_word_of_an_earlier_process_does_not_take_the_new_one_out(cluster) -> None:
    pool = pool_of(runners=1, in_flight=2)
    (runner,) = cluster.started
    runner.go.clear()
    late = roll_out(pool, 0)
    await settle()
    runner.errors, go = [AWAY], runner.go
    runner.go = asyncio.Event()
    runner.go.set()
    assert (await roll_out(pool, 1)).runner == "rollout-0"
    assert pool.restarts == 1
    runner.errors = [AWAY]
    go.set()
    assert (await late).runner == "rollout-0"
    assert pool.restarts == 1


async def test_the_pool_gives_up_when_all_runners_are_gone_for_good(cluster) -> None:
    pool = pool_of(runners=2, in_flight=1)
    for runner in cluster.started:
        runner.errors, runner.status_errors = [AWAY], [MemoryError("no room for the model")]
    with pytest.raises(EnvironmentProblem, match=r"all are gone: no room for the model"):
        await roll_out(pool, 0)
    with pytest.raises(EnvironmentProblem, match="all are gone"):
        await roll_out(pool, 1)


async def test_a_runner_that_does_not_come_back_in_time_is_given_up(cluster, monkeypatch) -> None:
    asked: list[waiting.Actors] = []
    monkeypatch.setattr(waiting, "what_is_missing", lambda _, actors: asked.append(actors) or "it")
    pool = pool_of(runners=1, deadline_s=0.05)
    (runner,) = cluster.started
    runner.errors, runner.status_errors = [AWAY], [AWAY] * 1000
    with pytest.raises(EnvironmentProblem, match=r"all are gone: .*still waits for it; make room"):
        await roll_out(pool, 0)
    assert asked == [{"rollout runner": [runner]}]


async def test_a_job_that_kills_whoever_takes_it_is_given_up(cluster) -> None:
    pool = pool_of(runners=2, max_retries=1)
    for runner in cluster.started:
        runner.errors = [AWAY] * 9
    with pytest.raises(EnvironmentProblem, match=r"may lose 3 runners, this one lost 4"):
        await roll_out(pool, 0)
    assert sum(len(runner.jobs) for runner in cluster.started) == 4


async def test_an_error_of_the_job_is_raised_and_its_runner_is_free_again(cluster) -> None:
    pool = pool_of(runners=1, in_flight=1)
    cluster.started[0].errors = [NoQuestions("nothing to ask")]
    with pytest.raises(NoQuestions):
        await roll_out(pool, 0)
    assert (await roll_out(pool, 1)).runner == "rollout-0"
    assert pool.restarts == 0


async def test_a_cancelled_job_leaves_its_place_to_another(cluster) -> None:
    pool = pool_of(runners=1, in_flight=1)
    (runner,) = cluster.started
    runner.go.clear()
    task = roll_out(pool, 0)
    await settle()
    task.cancel()
    await asyncio.wait([task])
    runner.go.set()
    assert (await roll_out(pool, 1)).job == job_of(1)


async def test_pictures_are_drawn_in_batches_by_all_and_come_back_in_order(cluster) -> None:
    pool = pool_of(runners=2, in_flight=1)
    cluster.started[0].errors = [AWAY]
    requests = [PictureRequest(prompt=p, seed=i) for i, p in enumerate(make_prompts(8))]
    pictures = await pool.draw(requests, 5)
    assert [picture.thought for picture in pictures] == [str(i) for i in range(8)]
    assert {picture.policy_version for picture in pictures} == {5}
    sizes = [len(batch) for runner in cluster.started for batch in runner.batches]
    assert sorted(sizes) == [2, 3, 3, 3], "one batch was lost with its runner and drawn again"
    assert await pool.draw([], 5) == ()


async def test_a_runner_that_cannot_start_is_told_with_its_reason(cluster) -> None:
    pool = pool_of(runners=2)
    assert [status["name"] for status in await pool.ready()] == ["rollout-0", "rollout-1"]
    cluster.started[1].status_errors = [NoQuestions("what it said")]
    with pytest.raises(NoQuestions, match="what it said"):
        await pool.ready()
    cluster.started[1].status_errors = [ActorDiedError()]
    with pytest.raises(EnvironmentProblem, match="every rollout runner must start"):
        await pool.ready()
