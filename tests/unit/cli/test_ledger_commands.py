"""``alphagrpo ledger`` and ``alphagrpo rescore`` over a run folder of the miniature world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alphagrpo.cli.main import USER_ERROR, main
from alphagrpo.record.folder import RunFolder
from tests.synthetic_run import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("runs"), steps=3, heldout=2)


def spoken(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_every_topic_is_a_table_and_a_json_object(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ledger", str(run.path)]) == 0
    shown = capsys.readouterr().out
    for title in ("worst questions", "most contested prompts", "reward by tag", "losses"):
        assert title in shown
    assert "verifier was late" in shown
    answers = spoken(capsys, "ledger", run.path, "--top", 3)
    assert set(answers) == {"questions", "prompts", "tags", "losses"}
    assert len(answers["questions"]) == len(answers["prompts"]) == 3
    assert answers["losses"]["reasons"] == {"verifier was late": 6}
    assert answers["losses"]["drawn"] == 72
    only = spoken(capsys, "ledger", run.path, "losses", "--steps", "2:2")
    assert (set(only), only["losses"]["drawn"]) == ({"losses"}, 24)


def test_the_story_of_a_sample_names_its_picture(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ledger", str(run.path), "--sample", "2/1/3"]) == 0
    shown = capsys.readouterr().out
    assert "2/1/3" in shown
    assert "version 2" in shown
    (story,) = spoken(capsys, "ledger", run.path, "--sample", "2/1/3")
    assert Path(story["picture_path"]).is_file()
    assert story["questions"][0]["p_yes"] in (pytest.approx(0.93), pytest.approx(0.06))
    (late,) = spoken(capsys, "ledger", run.path, "--sample", "2/1/0")
    assert (late["score"], late["invalid_reason"]) == (None, "verifier was late")


def test_the_oracle_ranks_as_a_judge_that_is_right(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = spoken(capsys, "rescore", run.path, "--judge", "oracle", "--aggregate", "mean")
    figures = outcome["figures"]
    assert outcome["judge"] == "oracle@shapes"
    assert (outcome["no_picture"], figures["groups"]) == (0, 6)
    assert figures["flipped"] == 0
    assert figures["kendall"] > 0.95
    assert outcome["new_score"] > outcome["score"], "the oracle is surer"
    assert set(figures["advantages"]) == {"batch", "group"}


def test_a_reward_over_recorded_verdicts_asks_nobody(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rescore", str(run.path), "--program", "dvreward_binary"]) == 0
    shown = capsys.readouterr().out
    assert "dvreward_binary by the ledger's verdicts" in shown
    outcome = spoken(capsys, "rescore", run.path, "--judge", "tests.fakes:make_fake_verifier")
    assert outcome["judge"] == "fake@1"
    assert outcome["figures"]["flipped"] > 0.1, "a judge by hashes agrees with nobody"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rescore"], "neither --judge nor --program"),
        (["rescore", "--program", "none"], "no reward program is called"),
        (["rescore", "--judge", "no.module:here"], "must be an importable"),
        (["ledger", "--steps", "one"], "write for example 100:200"),
        (["ledger", "--sample", "9/0/0"], "steps 1 to 3"),
    ],
)
def test_a_mistake_is_one_line(
    run: RunFolder, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = arguments
    assert main([command, str(run.path), *rest]) == USER_ERROR
    assert says in capsys.readouterr().err
