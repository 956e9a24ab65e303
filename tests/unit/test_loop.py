"""The training loop over fakes: order, retries, what is refused, and resuming."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from alphagrpo.errors import ConfigError, PolicyDataError, ServiceUnavailable, WeightsError
from alphagrpo.loop import StepReport, TrainingLoop
from alphagrpo.prompt_iterator import PromptIterator
from alphagrpo.turns import Cursor
from alphagrpo.types import RolloutJob
from tests.fakes import FakeDecomposer, FakeLearner, FakePool, make_config, make_prompts


def make_loop(**parts: Any) -> TrainingLoop:
    return TrainingLoop(
        parts.pop("config", None) or make_config(),
        parts.pop("prompts", None) or make_prompts(7),
        decomposer=parts.pop("decomposer", None) or FakeDecomposer(),
        pool=parts.pop("pool", None) or FakePool(),
        learner=parts.pop("learner", None) or FakeLearner(),
    )


def turns(report: StepReport) -> list[tuple[str, int]]:
    return [(group.job.prompt.id, group.job.visit) for group in report.groups]


async def test_step_draws_trains_and_publishes() -> None:
    learner, pool = FakeLearner(), FakePool(size=2)
    loop = make_loop(learner=learner, pool=pool)
    report = await loop.run_step()
    assert (report.step, report.version) == (1, 1)
    assert [group.reference for group in learner.updates[0].groups] == [
        g.job for g in report.groups
    ]
    assert report.metrics["samples/drawn"] == report.metrics["samples/trained"] == 12
    assert pool.peak == 2


async def test_the_bytes_of_a_step_may_go_once_it_is_learnt() -> None:
    learner = FakeLearner()
    first = make_loop().prompts.at(0)[0].id
    pool = FakePool(reward=lambda job, i: None if job.prompt.id == first else float(i))
    config = make_config(reward={"max_invalid_share": 0.5})
    report = await make_loop(config=config, learner=learner, pool=pool).run_step()
    assert [group.reference for group in report.groups] == [None] * 3
    dropped, *trained = report.training
    assert dropped is None
    assert not any(hasattr(group, "reference") for group in trained)
    assert [group.samples for group in trained] == [g.samples for g in learner.updates[0].groups]
    assert all(group.reference is not None for group in learner.updates[0].groups)


async def test_zero_lag_each_step_is_drawn_by_the_version_before_it() -> None:
    loop = make_loop()
    for step in range(3):
        report = await loop.run_step()
        assert {group.job.policy_version for group in report.groups} == {step}


async def test_order_depends_on_the_seed_alone_and_every_pass_has_every_prompt() -> None:
    few, many = make_loop(pool=FakePool(size=1)), make_loop(pool=FakePool(size=5))
    order = [turn for _ in range(7) for turn in turns(await few.run_step())]
    assert order == [turn for _ in range(7) for turn in turns(await many.run_step())]
    for visit in range(3):
        ids = [prompt for prompt, v in order[7 * visit : 7 * visit + 7]]
        assert sorted(ids) == sorted(p.id for p in make_prompts(7))
        assert {v for _, v in order[7 * visit : 7 * visit + 7]} == {visit}
    assert order[:7] != [(p, 0) for p, _ in order[7:14]]


async def test_resumed_run_continues_the_sequence() -> None:
    unbroken = make_loop(decomposer=FakeDecomposer(unanswerable=["p3"]))
    expected = [turns(await unbroken.run_step()) for _ in range(5)]
    first = make_loop(decomposer=FakeDecomposer(unanswerable=["p3"]))
    for _ in range(2):
        await first.run_step()
    state = json.loads(json.dumps(first.state_dict()))
    second = make_loop(decomposer=FakeDecomposer(unanswerable=["p3"]))
    second.load_state_dict(state)
    assert [turns(await second.run_step()) for _ in range(3)] == expected[2:]
    assert second.step == 5


async def test_resume_refuses_other_prompts() -> None:
    state = make_loop().state_dict()
    with pytest.raises(ConfigError, match="another set"):
        make_loop(prompts=make_prompts(8)).load_state_dict(state)


async def test_prompts_without_questions_are_set_aside_and_replaced() -> None:
    decomposer = FakeDecomposer(unanswerable=["p1", "p4"])
    loop = make_loop(decomposer=decomposer)
    seen = {prompt for _ in range(4) for prompt, _ in turns(await loop.run_step())}
    assert seen == {"p0", "p2", "p3", "p5", "p6"}
    report = await loop.run_step()
    assert len(report.groups) == 3
    assert report.metrics["prompts/set_aside"] == 2


async def test_every_prompt_set_aside_is_an_error() -> None:
    prompts = make_prompts(3)
    loop = make_loop(prompts=prompts, decomposer=FakeDecomposer([p.id for p in prompts]))
    with pytest.raises(PolicyDataError, match="every prompt was set aside"):
        await loop.run_step()


async def test_decomposer_that_is_down_stops_the_step_but_sets_nothing_aside() -> None:
    prompts = make_prompts(5)
    decomposer = FakeDecomposer(down_for=[p.id for p in prompts])
    loop = make_loop(prompts=prompts, decomposer=decomposer)
    with pytest.raises(ServiceUnavailable):
        await loop.run_step()
    decomposer.down_for.clear()
    assert loop.state_dict()["feed"]["set_aside"] == {}
    assert len((await loop.run_step()).groups) == 3


async def test_decomposition_is_asked_for_ahead_of_need() -> None:
    decomposer = FakeDecomposer()
    loop = make_loop(decomposer=decomposer)
    report = await loop.run_step()
    assert len(decomposer.calls) > len(report.groups)
    assert max(decomposer.calls.values()) == 1


async def test_decomposition_is_asked_for_in_bursts() -> None:
    decomposer = FakeDecomposer()
    iterator = PromptIterator(make_prompts(100), 0, decomposer, lookahead=4)
    asked = []
    async for _ in iterator.stream(Cursor(), 24):
        await asyncio.sleep(0)
        asked.append(sum(decomposer.calls.values()))
    iterator.close()
    bursts = [after - before for before, after in itertools.pairwise([0, *asked])]
    # The turn in hand and eight to come, filled up again whenever fewer than four are left.
    assert [burst for burst in bursts if burst] == [9, 5, 5, 5, 5]


async def test_one_missing_score_is_left_out_and_counted() -> None:
    def reward(job, index):
        return None if (job.prompt.id, index) == (first, 1) else float(index)

    probe = make_loop()
    first = probe.prompts.at(0)[0].id
    pool = FakePool(reward=reward)
    report = await make_loop(pool=pool).run_step()
    assert report.metrics["samples/invalid"] == 1
    assert report.metrics["samples/trained"] == 11
    assert len(pool.jobs) == 3, "three of four scored: the group is good enough as it is"


async def test_group_with_too_few_scores_is_asked_for_again_with_the_same_job() -> None:
    attempts: list[str] = []

    def reward(job, index):
        if job.prompt.id != first:
            return 1.0 * index
        attempts.append(job.prompt.id)
        return None if len(attempts) <= 4 else 1.0 * index

    first = make_loop().prompts.at(0)[0].id
    pool = FakePool(reward=reward)
    report = await make_loop(pool=pool).run_step()
    jobs = [job for job in pool.jobs if job.prompt.id == first]
    assert jobs == [jobs[0]] * 2
    assert report.metrics["groups/dropped"] == 0


async def test_scores_are_asked_for_again_after_growing_pauses() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    config = make_config(
        reward={"max_invalid_share": 0.5},
        rollout={"max_retries": 3, "pause": {"first_s": 4, "most_s": 10}},
    )
    first = make_loop().prompts.at(0)[0].id
    pool = FakePool(reward=lambda job, i: None if job.prompt.id == first else float(i))
    loop = TrainingLoop(
        config, make_prompts(7), decomposer=FakeDecomposer(), pool=pool, learner=FakeLearner(),
        sleep=sleep,
    )  # fmt: skip
    await loop.run_step()
    assert pauses == [4.0, 8.0, 10.0]


async def test_a_dropped_group_comes_again_once_at_the_end_of_its_pass() -> None:
    config = make_config(reward={"max_invalid_share": 0.5}, rollout={"max_retries": 0})
    first = make_loop().prompts.at(0)[0].id
    answers = iter([None] * 4 + [1.0, 2.0, 3.0, 4.0])

    def late(job: RolloutJob, index: int) -> float | None:
        return next(answers) if (job.prompt.id, job.visit) == (first, 0) else float(index)

    loop = make_loop(config=config, pool=FakePool(reward=late))
    reports = [await loop.run_step() for _ in range(3)]
    order = [turn for report in reports for turn in turns(report)]
    assert [place for place, turn in enumerate(order) if turn == (first, 0)] == [0, 7]
    assert reports[0].training[0] is None
    assert reports[2].training[1] is not None
    figures = ("prompts/put_off", "prompts/skipped", "prompts/dropped", "prompts/set_aside")
    assert [[report.metrics[name] for name in figures] for report in reports] == [
        [1, 0, 0, 0], [0] * 4, [0] * 4,
    ]  # fmt: skip


async def test_a_group_that_is_dropped_again_is_given_up() -> None:
    config = make_config(reward={"max_invalid_share": 0.5}, rollout={"max_retries": 0})
    first = make_loop().prompts.at(0)[0].id
    pool = FakePool(reward=lambda job, i: None if job.prompt.id == first else float(i))
    loop = make_loop(config=config, pool=pool)
    reports = [await loop.run_step() for _ in range(4)]
    drawn = [job.visit for job in pool.jobs if job.prompt.id == first]
    assert drawn[:2] == [0, 0]
    assert drawn.count(0) == 2
    assert [report.metrics["prompts/dropped"] for report in reports[:3]] == [0, 0, 1]


async def test_a_step_that_fails_says_what_is_known_of_it() -> None:
    first = make_loop().prompts.at(0)[0].id
    decomposer = FakeDecomposer(unanswerable=[first])
    loop = make_loop(decomposer=decomposer, pool=FakePool(reward=lambda job, i: None))
    with pytest.raises(PolicyDataError, match="100%"):
        await loop.run_step()
    failed = loop.failed
    assert failed is not None
    assert (failed.step, failed.version, failed.training) == (1, 0, (None,) * 3)
    assert [group.job.prompt.id for group in failed.groups] == [
        loop.prompts.at(place)[0].id for place in (1, 2, 3)
    ]
    assert all(group.reference is None for group in failed.groups)
    assert [turn.prompt.id for turn in failed.skipped] == [first]
    loop.pool._reward = None
    report = await loop.run_step()
    assert loop.failed is None
    assert [turn.prompt.id for turn in report.skipped] == [first], "and it is told again"


async def test_states_of_versions_that_put_nothing_off_are_read() -> None:
    loop = make_loop()
    await loop.run_step()
    state = loop.state_dict()
    old = {key: state[key] for key in ("step", "position", "feed")}
    again = make_loop()
    again.load_state_dict(old)
    assert again.state_dict() == state


async def test_group_that_stays_unscored_is_dropped_and_counted() -> None:
    config = make_config(
        reward={"max_invalid_share": 0.5}, rollout={"max_retries": 1, "prompts_per_step": 3}
    )
    learner = FakeLearner()
    first = make_loop().prompts.at(0)[0].id
    pool = FakePool(reward=lambda job, i: None if job.prompt.id == first else float(i))
    report = await make_loop(config=config, pool=pool, learner=learner).run_step()
    assert report.metrics["groups/dropped"] == 1
    assert len(learner.updates[0].groups) == 2
    assert sum(job.prompt.id == first for job in pool.jobs) == 2


async def test_group_with_just_enough_scores_is_taken_as_it_is() -> None:
    first = make_loop().prompts.at(0)[0].id
    learner = FakeLearner()
    pool = FakePool(reward=lambda job, i: None if job.prompt.id == first and i > 1 else float(i))
    report = await make_loop(pool=pool, learner=learner).run_step()
    assert len(pool.jobs) == 3
    assert len(learner.updates[0].groups) == 3
    assert report.metrics["groups/dropped"] == 0


async def test_group_with_one_score_too_few_is_not_trained_on() -> None:
    first = make_loop().prompts.at(0)[0].id
    learner = FakeLearner()
    config = make_config(reward={"max_invalid_share": 0.5}, rollout={"max_retries": 2})
    pool = FakePool(reward=lambda job, i: None if job.prompt.id == first and i else float(i))
    await make_loop(config=config, pool=pool, learner=learner).run_step()
    assert first not in {group.reference.prompt.id for group in learner.updates[0].groups}
    assert sum(job.prompt.id == first for job in pool.jobs) == 3


async def test_a_share_of_missing_scores_at_the_limit_is_let_through() -> None:
    config = make_config(reward={"max_invalid_share": 0.25})
    pool = FakePool(reward=lambda job, i: None if i == 0 else float(i))
    report = await make_loop(config=config, pool=pool).run_step()
    assert report.metrics["samples/invalid"] == 3


async def test_too_many_missing_scores_stop_the_run_without_a_trace() -> None:
    learner = FakeLearner()
    pool = FakePool(reward=lambda job, i: None if i == 0 else float(i))
    loop = make_loop(pool=pool, learner=learner)
    with pytest.raises(PolicyDataError, match=r"25%.*verifier down"):
        await loop.run_step()
    assert learner.updates == []
    assert loop.state_dict() == make_loop().state_dict()


async def test_equal_rewards_are_reported_as_skipped() -> None:
    report = await make_loop(pool=FakePool(reward=lambda job, i: 0.5)).run_step()
    assert report.metrics["learner/skipped"] == 1.0
    assert report.metrics["reward/std"] == 0.0


async def test_publication_that_failed_is_done_again_without_training_twice() -> None:
    class Flaky(FakeLearner):
        async def publish(self):
            if self.version == 0 and not self.failed:
                self.failed = True
                raise ServiceUnavailable("the store is gone; try again")
            return await super().publish()

        failed = False

    learner = Flaky()
    loop = make_loop(learner=learner)
    with pytest.raises(ServiceUnavailable):
        await loop.run_step()
    assert (loop.step, len(learner.updates)) == (1, 1)
    report = await loop.run_step()
    assert (report.step, report.version, len(learner.updates)) == (1, 1, 1), "and it is reported"
    assert report.metrics["time/learn_s"] >= 0
    report = await loop.run_step()
    assert (report.step, report.version, len(learner.updates)) == (2, 2, 2)


async def test_with_lag_the_next_step_is_drawn_while_this_one_is_learnt() -> None:
    config = make_config(rollout={"max_lag": 1})
    loop = make_loop(config=config)
    versions = [{g.job.policy_version for g in (await loop.run_step()).groups} for _ in range(3)]
    assert versions == [{0}, {0}, {1}]
    await loop.close()


async def test_with_more_lag_more_steps_are_under_way_and_none_is_older_than_allowed() -> None:
    config = make_config(rollout={"max_lag": 3})
    loop, order = make_loop(config=config), []
    for step in range(6):
        report = await loop.run_step()
        versions = {group.job.policy_version for group in report.groups}
        assert len(versions) == 1
        order.append(versions.pop())
        assert step - order[-1] <= 3
        assert len(loop._ahead) == 3
        order_of_prompts = [group.job.prompt.id for group in report.groups]
        if step == 0:
            straight = [g.job.prompt.id for g in (await make_loop().run_step()).groups]
            assert order_of_prompts == straight
    assert order == sorted(order)
    await loop.close()
    assert not loop._ahead


async def test_steps_drawn_ahead_share_the_room_and_the_earlier_one_has_it_first() -> None:
    class Held(FakePool):
        async def roll_out(self, job, questions, *, keep_pictures=0, draft=None):
            report = await super().roll_out(job, questions, keep_pictures=keep_pictures)
            await gate.wait()
            return report

    gate = asyncio.Event()
    config = make_config(rollout={"max_lag": 2, "prompts_per_step": 2})
    pool = Held(size=5)
    loop = make_loop(config=config, pool=pool)
    step = asyncio.create_task(loop.run_step())
    async with asyncio.timeout(10):
        while len(pool.jobs) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    expected = [loop.prompts.at(place)[0].id for place in range(6)]
    assert [job.prompt.id for job in pool.jobs] == expected[:5], "two steps and half of a third"
    gate.set()
    await step
    await loop.close()


async def test_a_step_that_fails_draws_what_was_ahead_again_too() -> None:
    class Once(FakeLearner):
        async def finish(self, denominator):
            if len(self.updates) == 1 and self.begun == 2:
                raise WeightsError("lost; try again")
            return await super().finish(denominator)

    config = make_config(rollout={"max_lag": 2})
    calm = make_loop(config=config)
    expected = [turns(await calm.run_step()) for _ in range(4)]
    await calm.close()
    loop = make_loop(config=config, learner=Once())
    found = [turns(await loop.run_step())]
    with pytest.raises(WeightsError):
        await loop.run_step()
    assert not loop._ahead
    found += [turns(await loop.run_step()) for _ in range(3)]
    assert found == expected
    await loop.close()


async def test_groups_are_learnt_while_others_are_drawn() -> None:
    learner = FakeLearner()

    class Late(FakePool):
        async def roll_out(self, job, questions, *, keep_pictures=0, draft=None):
            report = await super().roll_out(job, questions, keep_pictures=keep_pictures)
            while job.prompt.id == last and len(learner.blocks) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            return report

    config = make_config(algorithm={"advantage_std": "group"})
    last = make_loop(config=config).prompts.at(2)[0].id
    loop = make_loop(config=config, pool=Late(size=3), learner=learner)
    async with asyncio.timeout(10):
        report = await loop.run_step()
    assert [group.place for group in learner.updates[0].groups] == [0, 1, 2]
    assert report.metrics["time/efficiency"] > 0


async def test_pictures_are_kept_at_report_steps_only() -> None:
    config = make_config(training={"report_groups_every": 2})
    loop = make_loop(config=config)
    kept = []
    for _ in range(3):
        report = await loop.run_step()
        kept.append(sum(s.png is not None for g in report.groups for s in g.samples))
    assert kept == [12, 0, 12]


async def test_pictures_of_a_few_groups_are_kept_also_of_steps_drawn_ahead() -> None:
    config = make_config(
        rollout={"max_lag": 1, "prompts_per_step": 6}, training={"report_groups_every": 3}
    )
    loop = make_loop(config=config)
    kept = []
    for _ in range(4):
        report = await loop.run_step()
        kept.append([sum(s.png is not None for s in group.samples) for group in report.groups])
    assert kept == [[4, 4, 4, 4, 0, 0], [0] * 6, [0] * 6, [4, 4, 4, 4, 0, 0]]
    await loop.close()


async def test_a_restored_loop_draws_with_what_the_restored_learner_publishes() -> None:
    loop = make_loop()
    await loop.run_step()
    state = loop.state_dict()
    await loop.run_step()
    loop.learner.version = 6
    loop.load_state_dict(state)
    report = await loop.run_step()
    assert {group.job.policy_version for group in report.groups} == {7}
    assert (report.step, report.version) == (2, 8)


async def test_every_job_says_who_draws_what_for_which_task() -> None:
    flow = {"num_points": 6, "window": {"length": 2, "allowed": (0, 4)}}
    config = make_config(
        seed=9, task={"kind": "srr"}, refinement={"prompt": "{prompt}", "flow": flow}
    )
    pool = FakePool()
    await make_loop(config=config, pool=pool).run_step()
    for job in pool.jobs:
        assert (job.run, job.seed, job.task, job.group_size) == ("fake", 9, "srr", 4)


async def test_times_add_up_to_the_step() -> None:
    metrics = (await make_loop(pool=FakePool(runners=2)).run_step()).metrics
    parts = [metrics[f"time/{n}_s"] for n in ("rollout", "verify_wait", "learn", "sync")]
    assert sum(parts) == pytest.approx(metrics["time/step_s"])


async def test_a_group_that_cannot_be_had_ends_the_step_and_what_else_was_under_way() -> None:
    class Breaking(FakePool):
        async def roll_out(self, job, questions, *, keep_pictures=0):
            if job.prompt.id == third:
                raise WeightsError("version 0 is gone")
            try:
                return await super().roll_out(job, questions, keep_pictures=keep_pictures)
            except asyncio.CancelledError:
                cancelled.append(job.prompt.id)
                raise

    config = make_config(rollout={"prompts_per_step": 6})
    probe = make_loop(config=config).prompts
    third, cancelled = probe.at(2)[0].id, []
    pool, learner = Breaking(size=3), FakeLearner()
    loop = make_loop(config=config, pool=pool, learner=learner)
    with pytest.raises(WeightsError, match="version 0 is gone"):
        await loop.run_step()
    await asyncio.sleep(0)
    assert cancelled, "groups of a step that failed are not finished"
    assert len(pool.jobs) < 6, "and no further ones are begun"
    assert (learner.updates, loop.step) == ([], 0)


async def test_cancelled_step_leaves_no_trace() -> None:
    learner = FakeLearner()
    loop = make_loop(learner=learner)
    task = asyncio.create_task(loop.run_step())
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert learner.updates == []
    assert [t for t, _ in turns(await loop.run_step())] == [
        t for t, _ in turns(await make_loop().run_step())
    ]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [("report", [[0, 0, 0], [4, 4, 4]]), ("all", [[4, 4, 4]] * 2), (2, [[2, 2, 2], [4, 4, 4]]),
     (9, [[4, 4, 4]] * 2)],
)  # fmt: skip
async def test_pictures_are_kept_as_the_config_says(keep: Any, expected: list[list[int]]) -> None:
    config = make_config(training={"keep_pictures": keep, "report_groups_every": 2})
    loop = make_loop(config=config)
    reports = [await loop.run_step() for _ in range(2)]
    kept = [[sum(s.png is not None for s in g.samples) for g in r.groups] for r in reports]
    assert sorted(kept) == sorted(expected)
