from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from alphagrpo.record.folder import RunFolder
from alphagrpo.report.charts import Series, line_chart, moving_average, stacked_chart, ticks
from alphagrpo.report.figures import refinement_rows
from alphagrpo.report.render import render_report, write_report
from alphagrpo.report.view import build_view
from tests.synthetic_run import make_run, synthetic_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("runs"), steps=8, heldout=8)


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
    evaluation = run.summary()["evaluation"]
    text = render_report(run)
    for sort in ("plain", "thought"):
        for phase in ("before", "after"):
            assert f"{100 * evaluation[phase][sort]['all_right']:.1f} %" in text
        change = evaluation["difference"][sort]["all_right"]
        assert f"{100 * change['mean']:+.1f} points" in text
        assert f"{100 * change['low']:+.1f} to {100 * change['high']:+.1f}" in text


def test_groups_show_every_question_of_every_sample(run: RunFolder) -> None:
    view = build_view(run)
    assert [group["step"] for group in view["groups"]] == [1, 4, 8] or len(view["groups"]) == 3
    for group in view["groups"]:
        rows = [r for r in run.ledger(group["step"]) if r["prompt"] == group["prompt"]]
        shown = [p for question in group["questions"] for p in question["p_yes"]]
        assert len(shown) == len(rows)
        assert len(group["samples"]) == 12
        rewards = [s["reward"] for s in group["samples"] if s["reward"] is not None]
        assert rewards == sorted(rewards, reverse=True)
        assert group["samples"][-1]["reward"] is None
        assert group["samples"][-1]["invalid_reason"] == "verifier was late"


def test_pairs_are_the_first_prompts_and_not_chosen_ones(run: RunFolder) -> None:
    view = build_view(run)
    for title, sort in (("Plain prompts", "plain"), ("Prompts that need a thought", "thought")):
        lines = [line for line in run.evaluation("before") if line["sort"] == sort]
        assert [pair["prompt"] for pair in view["pairs"][title]] == [x["prompt"] for x in lines]


def test_notes_count_what_went_wrong(run: RunFolder) -> None:
    text = " ".join(build_view(run)["notes"])
    assert "8 of 192 samples could not be scored" in text
    assert "One seed" in text


def test_a_run_that_has_only_begun_has_a_report_too(tmp_path: Path) -> None:
    folder = RunFolder.create(synthetic_config(tmp_path))
    text = render_report(folder)
    assert "no evaluation after training" in text
    assert Page(text).open == []


def test_what_people_wrote_is_escaped(tmp_path: Path) -> None:
    folder = RunFolder.create(synthetic_config(tmp_path))
    line = {
        "id": "a", "sort": "plain", "prompt": "<script>alert(1)</script>", "thought": "<b>",
        "picture": "aa", "oracle": [], "all_right": True, "dvreward": None,
    }  # fmt: skip
    folder.save_picture("aa", b"\x89PNG")
    for phase in ("before", "after"):
        folder.write_evaluation(phase, [line])
    text = render_report(folder)
    assert "&lt;script&gt;" in text
    assert "<script>" not in text


def test_refinements_are_shown_before_and_after_with_their_draft(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=2, heldout=4)
    chain = {
        "all_right": 0.625, "mended": 0.5, "broken": 0.125, "named": None, "dvreward": 0.9,
    }  # fmt: skip
    summary = run.summary()
    for phase in ("before", "after"):
        summary["evaluation"][phase]["plain"]["refined"] = {
            "round1": {"last": chain, "gated": {**chain, "all_right": 0.875}}
        }
    run.write_summary(summary)
    assert [row[0] for row in refinement_rows(summary)] == ["plain, before", "plain, after"]
    text = render_report(run)
    assert "<h2>One refinement</h2>" in text
    for cell in ("87.5%", "62.5%", "50.0%", "12.5%", "<td>-</td>"):
        assert cell in text, cell
    assert "One refinement" not in render_report(make_run(tmp_path / "plain", steps=1, heldout=2))


def test_charts_keep_every_point_inside_the_frame() -> None:
    points = tuple((float(x), 5.0 * (-1) ** x) for x in range(20))
    svg = line_chart([Series(name="a", points=points)], limit=(9.0, "limit"))
    drawn = re.findall(r"[ML ]([\d.]+),([\d.]+)", svg)
    assert len(drawn) == 20
    assert all(52 <= float(x) <= 546 and 12 <= float(y) <= 190 for x, y in drawn)
    assert line_chart([Series(name="none", points=())]) == ""
    assert stacked_chart(["a"], [], [[]]) == ""
    assert "area" in stacked_chart(["a", "b"], [1.0], [[2.0], [3.0]])


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert ticks(3.0, 3.0) == [3.0]
    for low, high in ((0.0, 1e-5), (-2.3, 7.7), (0.31, 0.62)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 6
        assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)


def test_the_moving_average_keeps_a_straight_line_inside() -> None:
    line = [(float(x), 2.0 * x) for x in range(30)]
    assert [y for _, y in moving_average(line)[5:25]] == pytest.approx(range(10, 50, 2))
