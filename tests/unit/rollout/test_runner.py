"""A runner over fakes, and the whole loop in one process on a tiny BAGEL."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from alphagrpo.errors import DeviceFull, WeightsError
from alphagrpo.learner.inprocess import LocalLearner, LocalStore
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.loop import TrainingLoop
from alphagrpo.models import weights
from alphagrpo.policy.trainable import trainable_parameters
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.ports import PictureRequest
from alphagrpo.rollout import pulling
from alphagrpo.rollout.inprocess import LocalPool
from alphagrpo.rollout.runner import KEPT_GROUPS, GroupRunner
from tests.fakes import (
    FakeDecomposer,
    FakeTokenizer,
    FakeVerifier,
    make_config,
    make_job,
    make_model,
    make_prompts,
    make_questions,
)

CONFIG = make_config(model={"trainable": "experts"})
QUESTIONS = make_questions("x")


class CountingWorker(RolloutWorker):
    """Counts draws and notes the thread they run in."""

    def __init__(self) -> None:
        super().__init__(make_model(), FakeTokenizer(), CONFIG)
        self.draws: list[str] = []

    def sample_group(self, job):
        self.draws.append(threading.current_thread().name)
        return super().sample_group(job)


class CountingStore(LocalStore):
    """Hands out broken chunks the first ``broken`` times."""

    def __init__(self, broken: int = 0) -> None:
        super().__init__()
        self.broken, self.fetches = broken, 0

    async def fetch(self, version):
        manifest, chunks = await super().fetch(version)
        self.fetches += 1
        if self.fetches <= self.broken:
            chunks = [np.zeros_like(chunk) for chunk in chunks]
        return manifest, chunks


async def publish(store: LocalStore, version: int, seed: int = 0) -> None:
    parameters = trainable_parameters(make_model(seed=seed), "experts")
    manifest, chunks = weights.flatten(parameters, version=version)
    await store.publish(chunks, manifest)


async def make_runner(
    store: LocalStore | None = None, verifier: FakeVerifier | None = None
) -> tuple[GroupRunner, CountingWorker]:
    store = store or CountingStore()
    if await store.newest() is None:
        await publish(store, 0)
    worker = CountingWorker()
    return GroupRunner(worker, verifier or FakeVerifier(), store, CONFIG), worker


async def test_group_is_drawn_scored_and_timed() -> None:
    runner, worker = await make_runner()
    done = await runner.roll_out(make_job(make_prompts(1)[0], CONFIG), QUESTIONS, keep_pictures=1)
    assert all(done.group.valid)
    assert done.samples[0].thought == worker.describe(done.group.trajectories[0]) != ""
    assert done.samples[0].png is not None
    assert done.timings.sample_s > 0
    assert done.timings.pull_s > 0
    assert worker.draws[0].startswith("worker")


async def test_weights_are_pulled_once_per_version() -> None:
    store = CountingStore()
    runner, _ = await make_runner(store)
    prompts = make_prompts(3)
    await runner.roll_out(make_job(prompts[0], CONFIG), QUESTIONS)
    await runner.roll_out(make_job(prompts[1], CONFIG), QUESTIONS)
    assert store.fetches == 1
    await publish(store, 1, seed=1)
    done = await runner.roll_out(make_job(prompts[2], CONFIG, version=1), QUESTIONS)
    assert (store.fetches, done.group.trajectories[0].policy_version) == (2, 1)


async def test_same_version_with_other_bytes_is_pulled_again() -> None:
    store = CountingStore()
    runner, _ = await make_runner(store)
    await runner.roll_out(make_job(make_prompts(1)[0], CONFIG), QUESTIONS)
    await publish(store, 0, seed=5)
    await runner.roll_out(make_job(make_prompts(1)[0], CONFIG, visit=1), QUESTIONS)
    assert store.fetches == 2


async def test_broken_weights_are_asked_for_again_and_then_given_up(monkeypatch) -> None:
    monkeypatch.setattr(pulling, "PAUSES_S", (0.0, 0.01))
    store = CountingStore(broken=2)
    runner, worker = await make_runner(store)
    await runner.roll_out(make_job(make_prompts(1)[0], CONFIG), QUESTIONS)
    assert (store.fetches, runner.version) == (3, 0)
    hopeless, worker = await make_runner(CountingStore(broken=99))
    with pytest.raises(WeightsError, match="checksum"):
        await hopeless.roll_out(make_job(make_prompts(1)[0], CONFIG), QUESTIONS)
    assert (worker.draws, hopeless.version) == ([], -1)


async def test_weights_of_another_version_are_refused_and_asked_for_again(monkeypatch) -> None:
    monkeypatch.setattr(pulling, "PAUSES_S", (0.0, 0.0))
    store = CountingStore()
    runner, _ = await make_runner(store)
    await publish(store, 1, seed=1)
    fetch = store.fetch

    async def mixed_up(version: int):
        manifest, chunks = await fetch(version)
        return replace(manifest, version=version - (store.fetches == 1)), chunks

    store.fetch = mixed_up  # type: ignore[method-assign]
    done = await runner.roll_out(make_job(make_prompts(1)[0], CONFIG, version=1), QUESTIONS)
    assert (store.fetches, done.group.trajectories[0].policy_version, runner.version) == (2, 1, 1)


async def test_job_with_missing_scores_is_verified_again_but_not_drawn_again() -> None:
    verifier = FakeVerifier(fail_calls=[0, 2])
    runner, worker = await make_runner(verifier=verifier)
    job = make_job(make_prompts(1)[0], CONFIG)
    first = await runner.roll_out(job, QUESTIONS)
    assert sum(first.group.valid) == 2
    second = await runner.roll_out(job, QUESTIONS)
    assert all(second.group.valid)
    assert (len(worker.draws), verifier.calls) == (1, 6)


async def test_a_finished_job_is_forgotten_and_so_is_what_waits_too_long() -> None:
    verifier = FakeVerifier(fail_calls=[0])
    runner, worker = await make_runner(verifier=verifier)
    jobs = [make_job(prompt, CONFIG) for prompt in make_prompts(4)]
    for _ in range(2):
        await runner.roll_out(jobs[0], QUESTIONS)
    assert len(worker.draws) == 1
    await runner.roll_out(jobs[0], QUESTIONS)
    assert len(worker.draws) == 2, "its scores are all there: nothing of it is kept"
    verifier.fail_calls = set(range(10_000))
    for job in jobs[:KEPT_GROUPS]:
        await runner.roll_out(job, QUESTIONS)
    await runner.roll_out(jobs[KEPT_GROUPS], QUESTIONS)
    draws = len(worker.draws)
    await runner.roll_out(jobs[KEPT_GROUPS], QUESTIONS)
    assert len(worker.draws) == draws
    await runner.roll_out(jobs[0], QUESTIONS)
    assert len(worker.draws) == draws + 1, "the one that waited longest had to go"


async def test_a_job_of_another_version_is_drawn_again() -> None:
    store = CountingStore()
    runner, worker = await make_runner(store, FakeVerifier(fail_calls=[0]))
    job = make_job(make_prompts(1)[0], CONFIG)
    await runner.roll_out(job, QUESTIONS)
    await publish(store, 1, seed=1)
    done = await runner.roll_out(replace(job, policy_version=1), QUESTIONS)
    assert len(worker.draws) == 2
    assert {t.policy_version for t in done.group.trajectories} == {1}


async def test_an_evaluation_changes_no_weights_under_a_group_that_is_drawn() -> None:
    class KeepingStore(CountingStore):
        """Keeps every version, as the registry does while runners fetch."""

        def __init__(self) -> None:
            super().__init__()
            self.versions: dict[int, object] = {}

        async def publish(self, chunks, manifest) -> None:
            self.versions[manifest.version] = (manifest, chunks)
            await super().publish(chunks, manifest)

        async def fetch(self, version):
            return self.versions[version]

    store = KeepingStore()
    runner, _ = await make_runner(store)
    await publish(store, 1, seed=1)
    prompts = make_prompts(2)
    request = PictureRequest(prompt=prompts[1], seed=3)
    done, (picture,) = await asyncio.gather(
        runner.roll_out(make_job(prompts[0], CONFIG), QUESTIONS), runner.draw([request], 1)
    )
    assert {t.policy_version for t in done.group.trajectories} == {0}
    assert picture.policy_version == 1


async def test_next_group_is_drawn_while_one_is_scored() -> None:
    """The verifier answers the first group only once the second has been drawn."""
    drawn_twice = asyncio.Event()

    class Patient(FakeVerifier):
        async def verify(self, pixels, questions):
            await asyncio.wait_for(drawn_twice.wait(), 20)
            return await super().verify(pixels, questions)

    runner, worker = await make_runner(verifier=Patient())
    prompts = make_prompts(2)
    tasks = [asyncio.create_task(runner.roll_out(make_job(p, CONFIG), QUESTIONS)) for p in prompts]
    while len(worker.draws) < 2:  # noqa: ASYNC110 (the draws happen in a thread)
        await asyncio.sleep(0.01)
    drawn_twice.set()
    assert all(all(done.group.valid) for done in await asyncio.gather(*tasks))


def make_loop(verifier: FakeVerifier | None = None) -> tuple[TrainingLoop, LocalLearner]:
    store = LocalStore()
    worker = RolloutWorker(make_model(), FakeTokenizer(), CONFIG)
    learner = LocalLearner(GRPOLearner(make_model(), CONFIG), store)
    runner = GroupRunner(worker, verifier or FakeVerifier(), store, CONFIG)
    loop = TrainingLoop(
        CONFIG,
        make_prompts(5),
        decomposer=FakeDecomposer(),
        pool=LocalPool(runner),
        learner=learner,
    )
    return loop, learner


async def test_loop_trains_in_one_process_and_resumes_bit_for_bit(tmp_path) -> None:
    unbroken, _ = make_loop()
    reports = [await unbroken.run_step() for _ in range(3)]
    assert [report.version for report in reports] == [1, 2, 3]
    assert reports[0].metrics["parity/image_max_abs_log_ratio"] == 0.0

    first, learner = make_loop()
    await first.run_step()
    await learner.save(str(tmp_path))
    state = json.loads(json.dumps(first.state_dict()))
    second, learner = make_loop()
    assert await learner.load(str(tmp_path)) == 1
    second.load_state_dict(state)
    again = [await second.run_step() for _ in range(2)]
    for expected, got in zip(reports[1:], again, strict=True):
        assert [g.samples for g in got.groups] == [
            tuple(replace(s, png=None) for s in g.samples) for g in expected.groups
        ]
    assert unbroken.manifest.checksum == second.manifest.checksum


async def test_order_of_arrival_does_not_change_what_is_learnt() -> None:
    class Jittery(FakeVerifier):
        async def verify(self, pixels, questions):
            self.delay_s = (int(pixels.sum()) % 7) / 500
            return await super().verify(pixels, questions)

    steady, _ = make_loop()
    jittery, _ = make_loop(Jittery())
    for _ in range(2):
        await steady.run_step()
        await jittery.run_step()
    assert steady.manifest.checksum == jittery.manifest.checksum


async def test_a_full_device_is_told_with_the_runner_and_what_helps() -> None:
    class FullWorker(CountingWorker):
        """Stands in for one on a GPU that is full."""

        def sample_group(self, job):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.15 GiB. GPU 0")

    store = CountingStore()
    worker = FullWorker()
    runner = GroupRunner(worker, FakeVerifier(), store, CONFIG, role="rollout-7")
    learner = LocalLearner(GRPOLearner(make_model(), CONFIG), store)
    await learner.publish()
    with pytest.raises(DeviceFull) as caught:
        await runner.roll_out(make_job(make_prompts(1)[0], CONFIG), QUESTIONS)
    assert str(caught.value).startswith("rollout-7 asked its GPU for 4.15 GiB more memory")
    assert "raise rollout.slices" in str(caught.value)
    runner.close()
