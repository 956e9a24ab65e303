"""Killed at any point and resumed: the same order, the same ledger, every prompt once."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from alphagrpo.errors import LearnerLost, ServiceUnavailable
from alphagrpo.prompt_iterator import PromptIterator
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.ledger import SKIPPED
from alphagrpo.record.verdicts import KEPT_VERDICTS
from alphagrpo.types import RolloutJob
from tests.fakes import FakeDecomposer, make_config, make_prompts
from tests.mortal import Death, Killed, Mortal, Turn

STEPS = 7
TROUBLES = {"unanswerable": ["p1"], "down_for": ["p5"]}
"""One prompt without questions, one whose decomposition fails."""
POINTS = [
    ("begin", 4),
    ("drawing", 11),
    ("accumulate", 8),
    ("before finish", 4),
    ("after finish", 4),
    ("publish", 4),
    ("before recording", 3),
    ("after recording", 3),
    ("in a checkpoint", 2),
]
"""All after the checkpoint of step 2, and most in a step whose like was recorded."""


def scored_late(job: RolloutJob) -> bool:
    """A group that has scores when it comes again."""
    return job.prompt.id == "p2" and job.policy_version < 2


def never_scored(job: RolloutJob) -> bool:
    """The same whatever the version, which with lag depends on who is quick."""
    return (job.prompt.id, job.visit) == ("p2", 0)


def run_in(folder: Path, max_lag: int = 0, **options: Any) -> Mortal:
    config = make_config(
        output=str(folder),
        rollout={"max_lag": max_lag, "max_retries": 1},
        reward={"max_invalid_share": 0.7},
        training={"checkpoint_every": 2},
    )
    unscored = never_scored if max_lag else scored_late
    return Mortal(config, unscored=unscored, **(TROUBLES | options))


def digest(rows: list[dict]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def trained_in(rows: list[dict]) -> dict[Turn, set[int]]:
    """The steps that trained on each turn."""
    steps = defaultdict(set)
    for row in rows:
        if row["advantage"] is not None:
            steps[row["prompt_id"], row["visit"]].add(row["step"])
    return steps


def check_each_turn_once(run: Mortal) -> None:
    """Up to the last turn that came, each was trained once, or the ledger says why not."""
    rows = run.ledger()
    trained = trained_in(rows)
    assert len(run.trained) == len(set(run.trained))
    assert {turn: 1 for turn in run.trained} == {turn: len(at) for turn, at in trained.items()}
    absent = {
        (row["prompt_id"], row["visit"]): row["invalid_reason"]
        for row in rows
        if row["advantage"] is None
    }
    prompts = make_prompts(run.num_prompts)
    order = PromptIterator(prompts, run.config.seed, FakeDecomposer(), lookahead=0)
    turns = [(order.at(n)[0].id, order.at(n)[1]) for n in range(5 * len(prompts))]
    came = 1 + max(turns.index(turn) for turn in trained)
    for turn in turns[:came]:
        assert turn in trained or absent[turn], turn
    assert came >= STEPS * run.config.rollout.prompts_per_step


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Mortal]:
    """A run without a death, by lag."""
    runs = {}
    for lag in (0, 1, 2):
        runs[lag] = run_in(tmp_path_factory.mktemp("undisturbed") / str(lag), lag)
        runs[lag].live(STEPS)
    return runs


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_an_undisturbed_run_trains_every_turn_once_or_says_why_not(
    undisturbed: dict[int, Mortal], lag: int
) -> None:
    run = undisturbed[lag]
    check_each_turn_once(run)
    skipped = [row for row in run.ledger() if row["stage"] == SKIPPED]
    reasons = {(row["prompt_id"], row["invalid_reason"].split(":")[0]) for row in skipped}
    assert reasons == {("p1", "NoQuestions"), ("p5", "ServiceUnavailable")}
    # p5 was asked for twice in each pass that has ended.
    ended = [row for row in skipped if row["prompt_id"] == "p5" and row["visit"] < 2]
    assert [row["visit"] for row in ended] == [0, 0, 1, 1]
    drawn = {row["step"] for row in run.ledger() if (row["prompt_id"], row["visit"]) == ("p2", 0)}
    assert len(drawn) == 2, "and the group without scores was drawn twice"
    assert (("p2", 0) in run.trained) == (lag == 0)


@pytest.mark.parametrize("lag", [0, 1, 2])
@pytest.mark.parametrize(("point", "count"), POINTS, ids=[point for point, _ in POINTS])
def test_killed_at_any_point_and_resumed(
    undisturbed: dict[int, Mortal], tmp_path: Path, point: str, count: int, lag: int
) -> None:
    run, whole = run_in(tmp_path, lag), undisturbed[lag]
    with pytest.raises(Killed):
        run.live(STEPS, Death(point, count))
    assert len(run.ledger()) < len(whole.ledger())
    run.live(STEPS)
    check_each_turn_once(run)
    assert run.trained == whole.trained
    if lag == 0:
        assert digest(run.ledger()) == digest(whole.ledger())
        assert run.weights == whole.weights


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("point", ["begin", "drawing", "accumulate", "before finish", "publish"])
@pytest.mark.parametrize("error", [ServiceUnavailable, LearnerLost])
def test_a_step_that_fails_in_a_run_that_lives_on_is_taken_again(
    undisturbed: dict[int, Mortal],
    tmp_path: Path,
    error: type[BaseException],
    point: str,
    lag: int,
) -> None:
    run, whole = run_in(tmp_path, lag), undisturbed[lag]
    run.live(STEPS, Death(point, dict(POINTS)[point], error))
    check_each_turn_once(run)
    assert run.trained == whole.trained
    if lag == 0:
        assert digest(run.ledger()) == digest(whole.ledger())


@pytest.mark.parametrize("died", ["killed", "learner lost"])
def test_steps_taken_again_have_the_rewards_that_a_fickle_judge_gave_them_first(
    tmp_path: Path, died: str
) -> None:
    run = run_in(tmp_path, fickle=True)
    with pytest.raises(Killed):
        run.live(STEPS, Death("begin", 6))
    recorded = run.ledger()
    assert {row["step"] for row in recorded} == {1, 2, 3, 4, 5}
    # The last whole checkpoint is that of step 4, and without it that of step 2.
    folder = RunFolder.open(run.config.folder)
    (folder.checkpoints()[-1] / "complete.json").unlink()
    if died == "killed":
        with pytest.raises(Killed):
            run.live(STEPS, Death("after recording", 1))
        assert (folder.path / KEPT_VERDICTS).exists(), "a second death in between"
        run.live(STEPS)
    else:
        run.live(STEPS, Death("begin", 2, LearnerLost))
    again = [row for row in run.ledger() if row["step"] <= 5]
    assert digest(again) == digest(recorded)
    assert not (folder.path / KEPT_VERDICTS).exists(), "and what is not needed any more is gone"
