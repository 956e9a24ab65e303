"""What the ledger answers, against rows that are written here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.ledger import SCHEMA, write_ledger
from alphagrpo.record.losses import Losses
from alphagrpo.record.queries import ContestedPrompts, TagHistory, WorstQuestions
from alphagrpo.record.scan import Query, Span, ask
from alphagrpo.record.stories import Reference, stories

EMPTY: dict[str, Any] = dict.fromkeys(SCHEMA.names)


def rows_of(
    step: int, group: int, prompt: str, answers: list[list[float | None]], **more: Any
) -> list[dict[str, Any]]:
    """Samples of a group with their P(yes) to "is it 0 ?", "is it 1 ?"; the reward is the mean."""
    rows = []
    for sample, p_yes in enumerate(answers):
        known = [p for p in p_yes if p is not None]
        reward = sum(known) / len(known) if len(known) == len(p_yes) else None
        for index, p in enumerate(p_yes):
            row = EMPTY | {
                "step": step, "group": group, "task": "rt2i", "stage": "sample", "sample": sample,
                "prompt_id": prompt, "prompt": f"draw {prompt}", "thought": "<think>so</think>",
                "question_id": f"s{index}", "question": f"is it {index} ?", "kind": "semantic",
                "tag": ("Count", "Style")[index], "form": "yes_no", "p_yes": p, "score": reward,
                "reward": reward, "advantage": None if reward is None else 0.5,
                "valid": reward is not None,
                "invalid_reason": "" if reward is not None else "verifier was late",
                "picture": f"{step}{group}{sample}",
            }  # fmt: skip
            rows.append(row | more)
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "config.yaml").write_text("name: x\n")
    dropped = rows_of(2, 1, "b", [[None, None], [0.4, 0.4]], advantage=None)
    draft = rows_of(2, 0, "a", [[0.0, 0.0]], stage="draft", reward=None, advantage=None)
    skipped = EMPTY | {
        "step": 3, "stage": "skipped", "prompt_id": "c", "prompt": "draw c",
        "invalid_reason": "NoQuestions: none", "valid": False,
    }  # fmt: skip
    steps = {
        1: rows_of(1, 0, "a", [[0.9, 0.1], [0.8, 0.2]]) + rows_of(1, 1, "b", [[1.0, 1.0], [0, 0]]),
        2: draft + rows_of(2, 0, "a", [[0.9, 0.3], [0.9, 0.5]]) + dropped,
        3: [*rows_of(3, 0, "a", [[0.6, 0.6], [0.6, 0.6]]), skipped],
    }
    for step, rows in steps.items():
        write_ledger(tmp_path / "ledger" / f"step-{step:06d}.parquet", rows)
    return RunFolder.open(tmp_path)


def answered(folder: RunFolder, query: Any, span: Span = Span()) -> Any:  # noqa: B008
    queries: list[Query] = [query]
    ask(folder, queries, span)
    return query


def test_the_worst_question_is_the_one_most_often_answered_no(folder: RunFolder) -> None:
    worst, other = answered(folder, WorstQuestions()).figures()
    assert (worst.question, worst.tag) == ("is it 1 ?", "Style")
    assert (worst.asked, worst.answered, worst.no) == (10, 9, 6), "drafts are not asked about"
    assert worst.p_yes == pytest.approx((0.1 + 0.2 + 1 + 0 + 0.3 + 0.5 + 0.4 + 0.6 + 0.6) / 9)
    assert other.no == 2
    assert answered(folder, WorstQuestions()).figures(at_least=10) == []


def test_the_most_contested_prompt_has_the_widest_groups(folder: RunFolder) -> None:
    first, second = answered(folder, ContestedPrompts()).figures()
    assert (first.prompt_id, first.prompt, first.groups, first.widest) == ("b", "draw b", 1, "1/1")
    assert (first.spread, first.low, first.high) == (0.5, 0, 1)
    assert (second.groups, second.widest) == (3, "2/0")
    assert second.spread == pytest.approx((0 + 0.05 + 0) / 3, abs=1e-6)


def test_tags_over_time_are_means_of_stretches_of_steps(folder: RunFolder) -> None:
    early, late = answered(folder, TagHistory()).figures(bins=2)
    assert (early.first, early.last, late.first, late.last) == (1, 1, 2, 3)
    assert early.p_yes == pytest.approx({"Count": 2.7 / 4, "Style": 1.3 / 4})
    assert late.p_yes["Count"] == pytest.approx((0.9 + 0.9 + 0.4 + 0.6 + 0.6) / 5)
    assert late.reward == pytest.approx((0.6 + 0.7 + 0.4 + 0.6 + 0.6) / 5)
    assert [part.first for part in answered(folder, TagHistory()).figures(bins=9)] == [1, 2, 3]
    assert TagHistory().figures() == []


def test_losses_are_told_with_their_reasons(folder: RunFolder) -> None:
    losses = answered(folder, Losses()).figures()
    assert (losses.drawn, losses.scored) == (10, 9)
    assert losses.reasons == {"verifier was late": 1}
    (dropped,) = losses.dropped
    assert (dropped.step, dropped.group, dropped.scored, dropped.drawn) == (2, 1, 1, 2)
    assert "1 x verifier was late" in dropped.reason
    (skipped,) = losses.skipped
    assert (skipped.step, skipped.group, skipped.prompt_id) == (3, None, "c")
    assert skipped.reason == "NoQuestions: none"


def test_only_the_steps_that_are_asked_for_are_read(folder: RunFolder) -> None:
    (folder.path / "ledger/step-000003.parquet").write_bytes(b"torn")
    assert answered(folder, Losses(), Span(1, 2)).figures().drawn == 8
    assert answered(folder, Losses(), Span(None, 1)).figures().drawn == 4


def test_a_sample_has_its_whole_story(folder: RunFolder) -> None:
    folder.save_picture("201", b"png")
    (story,) = stories(folder, Reference.parse("2/0/1"))
    assert (story.name, story.prompt, story.thought) == ("2/0/1", "draw a", "<think>so</think>")
    assert [(q.text, round(q.p_yes or 0, 3)) for q in story.questions] == [
        ("is it 0 ?", 0.9), ("is it 1 ?", 0.5),
    ]  # fmt: skip
    assert (story.reward, story.advantage) == (pytest.approx(0.7), 0.5)
    assert story.picture_path == str(folder.path / "images/201.png")
    (draft,) = stories(folder, Reference.parse("2/0/d0"))
    assert (draft.name, draft.picture_path) == ("2/0/d0", None)
    assert [one.name for one in stories(folder, Reference.parse("2/0"))] == [
        "2/0/d0", "2/0/0", "2/0/1",
    ]  # fmt: skip
    assert [one.name for one in stories(folder, Reference.parse("3/0"))] == ["3/0/0", "3/0/1"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("7/0/0", "steps 1 to 3"), ("1/9/0", "groups 0 to 1"), ("one", "write for example 120/3/7")],
)
def test_a_sample_that_is_not_there_is_told(folder: RunFolder, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        stories(folder, Reference.parse(text))
