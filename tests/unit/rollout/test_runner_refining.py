"""Refinements by a runner over a fake verifier: drafts, what is missing, mixes, the whole loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alphagrpo.config import RunConfig
from alphagrpo.errors import PolicyDataError
from alphagrpo.learner.inprocess import LocalLearner, LocalStore
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.loop import StepReport, TrainingLoop
from alphagrpo.models import weights
from alphagrpo.policy.trainable import trainable_parameters
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.record.ledger import read_ledger, rows_of_group, write_ledger
from alphagrpo.rewards.rectification import rectify
from alphagrpo.rollout.inprocess import LocalPool
from alphagrpo.rollout.runner import GroupRunner
from alphagrpo.training import GroupWeights, SampleWeights, TrainingBlock
from tests.fakes import (
    FakeDecomposer,
    FakeTokenizer,
    FakeVerifier,
    make_model,
    make_prompts,
    make_questions,
)
from tests.unit.rollout.test_refining import job_of, refining

QUESTIONS = make_questions("x")


class CountingWorker(RolloutWorker):
    """Notes what is drawn."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(make_model(), FakeTokenizer(), config)
        self.drawn: list[str] = []

    def sample_group(self, job):
        self.drawn.append("draw")
        return super().sample_group(job)

    def draw_drafts(self, job):
        self.drawn.append("drafts")
        return super().draw_drafts(job)

    def sample_refinements(self, job, draft):
        self.drawn.append("refine")
        self.draft = draft
        return super().sample_refinements(job, draft)


async def make_runner(config: RunConfig, verifier: FakeVerifier) -> GroupRunner:
    worker, store = CountingWorker(config), LocalStore()
    manifest, chunks = weights.flatten(trainable_parameters(worker.model, "experts"), version=0)
    await store.publish(chunks, manifest)
    runner = GroupRunner(worker, verifier, store, config)
    runner.worker = worker  # type: ignore[attr-defined]
    return runner


async def roll_out(runner: Any, config: RunConfig, prompt: int = 0) -> Any:
    return await runner.roll_out(job_of(config, prompt), QUESTIONS, keep_pictures=1)


@pytest.mark.parametrize("mode", ["off", "max", "group_min"])
async def test_the_worst_draft_seeds_and_rewards_are_rectified(mode: str) -> None:
    config = refining(rectification=mode, format_bonus=0.0)
    runner = await make_runner(config, FakeVerifier())
    done = await roll_out(runner, config)
    scores = [sample.score.value for sample in done.drafts]
    assert len(scores) == 3
    assert done.draft == int(np.argmin(scores))
    assert np.array_equal(
        runner.worker.draft.latents, runner.worker.draw_drafts(job_of(config))[done.draft].latents
    )
    raw = [sample.score.value for sample in done.samples]
    expected = rectify(raw, min(scores), mode)
    assert [sample.reward for sample in done.samples] == pytest.approx(expected)
    assert done.group.draft_score.value == min(scores)
    assert done.group.draft_group is None
    assert all(draft.png for draft in done.drafts)


async def test_a_draft_without_a_score_is_never_refined() -> None:
    config = refining()
    runner = await make_runner(config, FakeVerifier(fail_calls=[1]))
    done = await roll_out(runner, config)
    assert done.drafts[1].score is None
    assert "fake verifier is down" in done.drafts[1].invalid_reason
    assert done.draft in (0, 2)


async def test_no_scored_draft_no_group_and_the_next_try_draws_nothing_twice() -> None:
    config = refining()
    runner = await make_runner(config, FakeVerifier(fail_calls=[0, 1, 2]))
    lost = await roll_out(runner, config)
    assert lost.group.trajectories == ()
    assert [sample.reward for sample in lost.samples] == [None] * 3
    assert all("down" in sample.invalid_reason for sample in lost.samples)
    done = await roll_out(runner, config)
    assert runner.worker.drawn == ["drafts", "refine"]
    assert all(sample.reward is not None for sample in done.samples)
    straight = await roll_out(await make_runner(config, FakeVerifier()), config)
    assert [s.picture_hash for s in done.samples] == [s.picture_hash for s in straight.samples]


async def test_missing_scores_of_refinements_are_asked_for_again_without_drawing() -> None:
    config = refining()
    runner = await make_runner(config, FakeVerifier(fail_calls=[4]))
    first = await roll_out(runner, config)
    assert sum(sample.reward is None for sample in first.samples) == 1
    again = await roll_out(runner, config)
    assert runner.worker.drawn == ["drafts", "refine"]
    assert all(sample.reward is not None for sample in again.samples)
    assert again.draft == first.draft


async def test_trained_drafts_are_a_group_of_their_own() -> None:
    drafts = {"num": 3, "num_points": 5, "trained": True}
    config = refining(drafts=drafts)
    runner = await make_runner(config, FakeVerifier())
    done = await roll_out(runner, config)
    assert runner.worker.drawn == ["draw", "refine"]
    group = done.group.draft_group
    assert (group.job.task, done.group.job.task) == ("rt2i", "srr")
    assert len(done.drafts) == config.rollout.group_size
    assert [draft.reward for draft in done.drafts] == list(group.rewards)
    worst = min(group.scores, key=lambda score: score.value)
    assert done.group.draft_score == worst


@pytest.mark.parametrize(("failed", "trained"), [(range(2), True), (range(3), False)])
async def test_drafts_with_too_few_scores_are_refined_and_not_trained_on(
    failed: range, trained: bool
) -> None:
    config = refining(drafts={"num": 3, "num_points": 5, "trained": True})
    assert (config.rollout.group_size, config.min_valid) == (4, 2)
    done = await roll_out(await make_runner(config, FakeVerifier(fail_calls=failed)), config)
    assert (done.group.draft_group is not None) == trained
    assert done.draft not in failed
    assert len(done.group.trajectories) == 4


async def test_refinements_are_compared_with_the_draft_that_was_picked() -> None:
    """Whichever place the worst draft has."""
    config = refining(rectification="max", format_bonus=0.0)
    for worst in range(3):
        order: list[bytes] = []

        def judge(pixels: np.ndarray, question: Any, order=order, worst=worst) -> float:
            name = pixels.tobytes()
            if name not in order:
                order.append(name)
            return 0.4 if order.index(name) == worst else 0.8 if len(order) <= 3 else 0.2

        done = await roll_out(await make_runner(config, FakeVerifier(judge)), config)
        assert done.draft == worst
        assert done.group.draft_score.value == pytest.approx(0.4)
        assert [sample.reward for sample in done.samples] == pytest.approx([0.4] * 4)


def make_loop(config: RunConfig, verifier: FakeVerifier) -> TrainingLoop:
    store = LocalStore()
    learner = GRPOLearner(make_model(seed=0), config)
    worker = RolloutWorker(make_model(seed=0), FakeTokenizer(), config)
    runner = GroupRunner(worker, verifier, store, config)
    return TrainingLoop(
        config,
        make_prompts(9),
        decomposer=FakeDecomposer(),
        pool=LocalPool(runner),
        learner=LocalLearner(learner, store),
    )


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("srr", {}),
        ("srr", {"rounds": 2}),
        ("srr", {"drafts": {"trained": True}}),
        ("mixed", {"share": 0.5}),
    ],
)
async def test_the_loop_trains_refinements_at_exact_parity(
    kind: str, changes: dict[str, Any]
) -> None:
    config = refining(kind, rectification="off", **changes)
    loop = make_loop(config, FakeVerifier())
    tasks: list[str] = []
    for step in range(3):
        report = await loop.run_step()
        tasks += [group.job.task for group in report.groups]
        assert report.metrics["learner/skipped"] == 0.0
        if step == 0:
            for part in ("image", "text"):
                assert report.metrics[f"parity/{part}_max_abs_log_ratio"] == 0.0
        for group in report.training:
            assert sum(group.samples.advantages) == pytest.approx(0.0, abs=1e-4)
            assert (group.drafts is not None) == bool(changes.get("drafts"))
        gains = _gains(report)
        assert bool(gains) == ("srr" in tasks[-len(report.groups) :])
        if gains:
            improved = sum(gain > 0 for gain in gains) / len(gains)
            assert report.metrics["refine/improved_share"] == improved
            assert report.metrics["refine/gain"] == pytest.approx(sum(gains) / len(gains))
    assert set(tasks) == ({"srr", "rt2i"} if kind == "mixed" else {"srr"})
    await loop.close()


async def test_the_ledger_has_the_numbers_that_the_learner_was_given() -> None:
    config = refining(drafts={"num": 3, "num_points": 5, "trained": True}, rectification="off")
    loop = make_loop(config, FakeVerifier(fail_calls=[1]))
    handed = []

    async def noting(block: TrainingBlock, accumulate=loop.learner.accumulate) -> None:
        handed.extend(block.groups)
        await accumulate(block)

    loop.learner.accumulate = noting  # type: ignore[method-assign]
    report = await loop.run_step()
    handed.sort(key=lambda group: group.place)
    for index, group in enumerate(handed):
        rows = rows_of_group(1, index, report.groups[index], report.training[index])
        for stage, numbers in (("draft", group.drafts), ("sample", group.samples)):
            per_sample = [r for r in rows if r["stage"] == stage and r["question_id"] == "s0"]
            expected = zip(numbers.advantages, numbers.weights, strict=True)
            assert [r["advantage"] for r in per_sample] == [a if w else None for a, w in expected]
    assert sum(sum(group.drafts.weights) for group in handed) == 3 * 4 - 1, "one has no score"
    await loop.close()


def _gains(report: StepReport) -> list[float]:
    """Of each refinement over the draft it began from."""
    return [
        sample.score.value - group.drafts[group.draft].score.value
        for group in report.groups
        if group.job.task == "srr"
        for sample in group.samples
    ]


async def test_a_verifier_that_is_down_stops_a_refining_run_with_its_reason() -> None:
    config = refining()
    loop = make_loop(config, FakeVerifier(fail_calls=range(1000)))
    with pytest.raises(PolicyDataError, match="fake verifier is down"):
        await loop.run_step()
    await loop.close()


async def test_what_was_drawn_can_be_drawn_again_from_its_job() -> None:
    config = refining()
    one = await roll_out(await make_runner(config, FakeVerifier()), config, 2)
    runner = await make_runner(config, FakeVerifier())
    await roll_out(runner, config, 1)
    other = await roll_out(runner, config, 2)
    assert [s.picture_hash for s in one.samples] == [s.picture_hash for s in other.samples]
    assert replace(one.group.job, visit=1) != other.group.job


async def test_the_ledger_traces_a_refinement_to_its_draft(tmp_path: Any) -> None:
    config = refining()
    done = await roll_out(await make_runner(config, FakeVerifier()), config)
    report = done.report(QUESTIONS, "runner", None)
    size = len(report.samples)
    weights = SampleWeights((0.5,) * size, (1.0,) * size)
    rows = rows_of_group(4, 0, report, GroupWeights(samples=weights))
    write_ledger(tmp_path / "ledger.parquet", rows)
    read = read_ledger(tmp_path / "ledger.parquet")
    drafts = [row for row in read if row["stage"] == "draft"]
    samples = [row for row in read if row["stage"] == "sample"]
    chosen = report.drafts[report.draft]
    assert len(drafts) == 3 * len(QUESTIONS.questions)
    assert {row["draft"] for row in samples} == {chosen.picture_hash}
    for row in samples:
        assert row["draft_score"] == pytest.approx(chosen.score.value)
    assert {row["task"] for row in samples} == {"srr"}
    assert all(row["advantage"] is None and row["reward"] is None for row in drafts)
    assert chosen.picture_hash in {row["picture"] for row in drafts}
