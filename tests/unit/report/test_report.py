"""The report against the folder it renders: every number is the summary's, metrics' or ledger's."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from alphagrpo.eval.figures import RefinedFigures
from alphagrpo.eval.lines import HeldOutLine, Opinion
from alphagrpo.ports import GroupReport, Sample
from alphagrpo.record.curve import HeldOutCurve, heldout_curve, probed_ids
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.summary import RunSummary
from alphagrpo.report import view
from alphagrpo.report.figures import facts, headlines, refinement_rows
from alphagrpo.report.render import render_report, write_report
from alphagrpo.report.view import (
    Progress,
    build_view,
    data_uri,
    group_view,
    sample_groups,
    state,
)
from alphagrpo.training import GroupWeights, SampleWeights
from alphagrpo.types import Prompt, Score, Verdict
from tests.fakes import make_config, make_job, make_questions
from tests.synthetic_run import make_run, synthetic_config

WIDE = SampleWeights((-1.0, 0.0, 0.5), (1.0, 0.0, 1.0))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("runs"), steps=8, heldout=8)


def refined_group(name: str, rewards: Sequence[float | None]) -> GroupReport:
    """A refinement with one draft, of score 0.5, and samples of these rewards."""
    draft = _sample(f"{name}-draft", 0.5, f"draft of {name}", 0)
    samples = [_sample(f"{name}-{i}", r, f"{name} {i}", i) for i, r in enumerate(rewards)]
    job = make_job(Prompt(id=name, text=name), make_config())
    return GroupReport(
        job=replace(job, task="srr", group_size=len(samples)),
        questions=make_questions(name),
        samples=tuple(samples),
        reference=None,
        runner="r",
        drafts=(draft,),
        draft=0,
    )


def _sample(picture: str, reward: float | None, png: str, number: int) -> Sample:
    verdicts = tuple(
        Verdict(question_id=q, p_yes=reward or 0.0, judge="fake@1") for q in ("s0", "q0")
    )
    score = None
    if reward is not None:
        score = Score(semantic=reward, quality=reward, value=reward, verdicts=verdicts)
    return Sample(
        id=picture,
        thought=f"<think>thought {number}</think>",
        score=score,
        reward=reward,
        png=png.encode(),
        picture_hash=picture,
    )


def _reward(rows: Sequence[dict[str, Any]], sample: int) -> float:
    """A sample's reward in the ledger; below all others where it has none."""
    reward = next(row["reward"] for row in rows if row["sample"] == sample)
    return -1.0 if reward is None else reward


class Page(HTMLParser):
    """Collects resources, texts and unbalanced tags."""

    VOID = frozenset({"meta", "img", "br", "line", "circle", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_report_is_whole_and_needs_nothing_from_anywhere(run: RunFolder) -> None:
    path = write_report(run)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://|url\(|@import|<script", text)
    assert "image-rendering:pixelated" in text
    assert "prefers-color-scheme:dark" in text


def test_headlines_are_the_summarys_numbers(run: RunFolder) -> None:
    evaluation = run.summary().evaluation
    text = render_report(run)
    articles = re.findall(r'<article class="headline">.*?</article>', text, re.DOTALL)
    for sort, article in zip(("thought", "plain"), articles, strict=True):
        before, after = evaluation.before[sort], evaluation.after[sort]
        change = evaluation.difference[sort]["all_right"]
        assert f"<span>{100 * before.all_right:.1f} %</span>" in article
        assert f"<strong>{100 * after.all_right:.1f} %</strong>" in article
        assert f"{100 * change.mean:+.1f} points" in article
        assert f"{100 * change.low:+.1f} to {100 * change.high:+.1f}" in article
        assert f"{before.n} held-out prompts" in article
        cells = f"<td>{100 * before.dvreward:.1f} %</td><td>→</td><td>{100 * after.dvreward:.1f} %"
        assert f"<td>DVReward</td>{cells}" in article


def test_groups_show_every_question_of_every_sample(run: RunFolder) -> None:
    page = build_view(run)
    assert [group["step"] for group in page["groups"]] == [1, 5, 8]
    for group in page["groups"]:
        rows = [r for r in run.ledger(group["step"]) if r["prompt"] == group["prompt"]]
        expected = {(row["question"], row["sample"]): row["p_yes"] for row in rows}
        order = sorted(range(12), key=lambda i: -_reward(rows, i))
        assert [(q["text"], q["p_yes"]) for q in group["questions"]] == [
            (text, [expected[text, sample] for sample in order])
            for text in dict.fromkeys(row["question"] for row in rows)
        ]
        assert len(group["samples"]) == 12
        rewards = [s["reward"] for s in group["samples"] if s["reward"] is not None]
        assert rewards == sorted(rewards, reverse=True)
        assert group["samples"][-1]["reward"] is None
        assert group["samples"][-1]["invalid_reason"] == "verifier was late"


def test_pairs_are_the_first_prompts_and_not_chosen_ones(run: RunFolder) -> None:
    page = build_view(run)
    for title, sort in (("Plain prompts", "plain"), ("Prompts that need a thought", "thought")):
        lines = [line for line in run.evaluation("before") if line.sort == sort]
        assert [pair["prompt"] for pair in page["pairs"][title]] == [x.prompt for x in lines]


def test_few_pairs_are_shown_and_none_of_which_a_picture_was_not_kept(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "NUM_PAIRS", 3)
    lines = [line for line in run.evaluation("before") if line.sort == "plain"]
    missing = lines[1].opinion.picture
    monkeypatch.setattr(
        run, "picture", lambda digest: None if digest == missing else digest.encode()
    )
    rows = view.pairs(run, "plain", run.evaluation("before"), run.evaluation("after"))
    assert [row["prompt"] for row in rows] == [lines[i].prompt for i in (0, 2, 3)]
    after = {line.id: line for line in run.evaluation("after")}
    for row, line in zip(rows, [lines[i] for i in (0, 2, 3)], strict=True):
        before_and_after = [line.opinion, after[line.id].opinion]
        assert [side["picture"] for side in row["sides"]] == [
            view.data_uri(opinion.picture.encode()) for opinion in before_and_after
        ]
        assert [side["wrong"] for side in row["sides"]] == [
            [answer.question for answer in opinion.oracle if not answer.yes]
            for opinion in before_and_after
        ]


def test_notes_count_what_went_wrong(run: RunFolder) -> None:
    text = " ".join(build_view(run)["notes"])
    assert "8 of 192 samples could not be scored" in text
    assert "One seed" in text


def test_the_page_of_a_run_under_way_loads_itself_again_and_a_finished_ones_does_not(
    run: RunFolder, tmp_path: Path
) -> None:
    folder = make_run(tmp_path, steps=8, heldout=8, finished=False)
    text = render_report(folder, Progress(step=8, of=400, left_s=551.0))
    assert Page(text).open == []
    assert '<meta http-equiv="refresh" content="30">' in text
    assert "Under way, step 8 of 400, about 10 min left; written 2" in text
    finished = render_report(run)
    assert "http-equiv" not in finished
    assert "Under way" not in finished
    assert "8 steps; written 2" in finished


def test_where_a_run_stood_is_told_in_a_line() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    written = "; written 2026-01-02 03:04:05 UTC"
    begun = Progress(step=0, of=9, left_s=None)
    assert state(begun, RunSummary(), now) == f"Under way, before the first of 9 steps{written}"
    assert state(None, RunSummary(steps=9), now) == f"9 steps{written}"
    ended = RunSummary(steps=7, stopped_by="MeshError: the verifier is gone; start it")
    assert state(None, ended, now) == f"7 steps, ended by MeshError{written}"


def test_headlines_of_a_run_under_way_are_the_ends_of_its_curve(tmp_path: Path) -> None:
    folder = make_run(tmp_path, steps=8, heldout=8, finished=False)
    before = folder.evaluation("before")
    curve = heldout_curve(folder.metrics(), before, [], probed_ids(folder, before))
    thought, plain = headlines(folder.summary(), curve)
    assert plain.prompts == "4 of 8 held-out prompts"
    assert (plain.step, plain.difference, plain.others) == (4, None, ())
    assert (plain.before, plain.after) == tuple(y for _, y in curve.points["plain"])
    text = render_report(folder)
    assert f"<strong>{100 * thought.after:.1f} %</strong>" in text
    assert "so far, at step 4" in text
    folder.rewind(0)
    text = render_report(folder)
    assert "before training</p>" in text
    assert "<strong>" not in text


def test_the_page_says_what_its_words_mean(run: RunFolder, tmp_path: Path) -> None:
    words = dict(re.findall(r"<div><dt>([^<]+)</dt><dd>([^<]{40,})</dd>", render_report(run)))
    assert list(words) == ["all right", "strict", "DVReward", "|log ratio|"]
    folder = RunFolder.create(synthetic_config(tmp_path))
    line = HeldOutLine(
        id="a", sort="plain", prompt="a", opinion=Opinion(thought="", picture="", dvreward=0.5)
    )
    folder.write_evaluation("before", [line])
    text = render_report(folder)
    assert "<dt>strict" not in text, "without an oracle nobody says so"
    assert "DVReward of held-out prompts" in text


def test_few_ledgers_are_read_for_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(synthetic_config(tmp_path))
    for step in range(1, 61):
        folder.record_step(step, [refined_group(f"g{step}", (0.2, 0.9))], [None])
        for path in (folder.path / "images").glob(f"g{step}-*.png"):
            if step % 10:
                path.unlink()
    read: list[int] = []
    ledger = folder.ledger
    monkeypatch.setattr(folder, "ledger", lambda step: read.append(step) or ledger(step))
    assert [step for step, _ in sample_groups(folder)] == [10, 30, 60]
    assert sorted(read) == [10, 30, 60]


def test_a_run_that_has_only_begun_has_a_report_too(tmp_path: Path) -> None:
    folder = RunFolder.create(synthetic_config(tmp_path))
    text = render_report(folder)
    assert "no evaluation after training" in text
    assert Page(text).open == []


def test_what_people_wrote_is_escaped(tmp_path: Path) -> None:
    folder = RunFolder.create(synthetic_config(tmp_path))
    opinion = Opinion(thought="<b>", picture="aa", all_right=True)
    line = HeldOutLine(id="a", sort="plain", prompt="<script>alert(1)</script>", opinion=opinion)
    folder.save_picture("aa", b"\x89PNG")
    for phase in ("before", "after"):
        folder.write_evaluation(phase, [line])
    text = render_report(folder)
    assert "&lt;script&gt;" in text
    assert "<script>" not in text


def test_refinements_stand_in_a_table_before_and_after(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=2, heldout=4)
    last = RefinedFigures(n=4, all_right=0.625, mended=0.5, broken=0.125, dvreward=0.9)
    chains = {"last": last, "gated": replace(last, all_right=0.875)}
    summary = run.summary()
    phases = {
        phase: {**figures, "plain": replace(figures["plain"], refined={"round1": chains})}
        for phase, figures in (
            ("before", summary.evaluation.before),
            ("after", summary.evaluation.after),
        )
    }
    assert refinement_rows(summary) == []
    assert "One refinement" not in render_report(run)
    summary = replace(summary, evaluation=replace(summary.evaluation, **phases))
    run.write_summary(summary)
    first = summary.evaluation.before["plain"].all_right
    assert [row[0] for row in refinement_rows(summary)] == ["plain, before", "plain, after"]
    assert refinement_rows(summary)[0][1:] == (
        f"{first:.1%}", "87.5%", "62.5%", "50.0%", "12.5%", "-",
    )  # fmt: skip
    text = render_report(run)
    assert "<h2>One refinement</h2>" in text
    assert "<td>87.5%</td><td>62.5%</td><td>50.0%</td><td>12.5%</td><td>-</td>" in text


def test_a_folder_of_an_earlier_version_has_a_report_with_what_it_knows(tmp_path: Path) -> None:
    folder = RunFolder.create(synthetic_config(tmp_path))
    line = {"id": "a", "sort": "plain", "prompt": "a red circle", "thought": "", "picture": "aa"}
    for phase in ("before", "after"):
        path = folder.path / "evaluation" / f"{phase}.jsonl"
        path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    figures = {"plain": {"n": 1, "all_right": None, "dvreward": 0.25, "no longer known": 1}}
    summary = {"steps": 3, "evaluation": {"before": figures, "after": figures}}
    (folder.path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    folder.save_picture("aa", b"\x89PNG")
    (headline,) = headlines(folder.summary(), HeldOutCurve())
    assert (headline.judge, headline.before) == ("DVReward, by the verifier", 0.25)
    assert headline.difference is None
    text = render_report(folder)
    assert Page(text).open == []
    assert "a red circle" in text
    assert "no longer known" in text, "the summary is shown as it stands"
    assert facts(folder.summary(), []) == [("steps", "3")]


def test_the_group_that_teaches_the_most_is_shown_and_drafts_are_apart(tmp_path: Path) -> None:
    folder = RunFolder.create(synthetic_config(tmp_path))
    groups = [refined_group("narrow", (0.5, 0.6)), refined_group("wide", (0.2, None, 0.9))]
    training = [None, GroupWeights(samples=WIDE)]
    folder.record_step(1, groups, training)
    ((step, rows),) = sample_groups(folder)
    table = group_view(folder, step, rows)
    assert table["prompt"] == "wide"
    assert table["draft"] == data_uri(b"draft of wide")
    assert table["draft_score"] == pytest.approx(0.5)
    assert [sample["reward"] for sample in table["samples"]] == [
        pytest.approx(0.9),
        pytest.approx(0.2),
        None,
    ]
    assert [sample["lean"] for sample in table["samples"]] == pytest.approx([0.5, -1.0, 0.0])
    assert [sample["thought"] for sample in table["samples"]] == [
        "thought 2",
        "thought 0",
        "thought 1",
    ]
    assert table["judge"] == "fake@1"


def test_groups_without_their_pictures_are_not_shown(tmp_path: Path) -> None:
    folder = RunFolder.create(synthetic_config(tmp_path))
    folder.record_step(1, [refined_group("wide", (0.2, 0.9))], [None])
    for path in (folder.path / "images").glob("wide-1.png"):
        path.unlink()
    assert sample_groups(folder) == []
