"""The held-out curve: every point of it is of the same prompts, and it says of how many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from alphagrpo.eval.lines import HeldOutLine, Opinion
from alphagrpo.eval.probe import PROMPT_SET
from alphagrpo.record.curve import HeldOutCurve, heldout_curve, probed_ids
from alphagrpo.record.folder import RunFolder
from alphagrpo.types import SORTS, Sort
from tests.fakes import make_config
from tests.synthetic_run import make_run

PROBED = frozenset({"a", "c", "t"})


def line(name: str, right: bool | None, sort: Sort = "plain", **measures: Any) -> HeldOutLine:
    opinion = Opinion(thought="", picture="", all_right=right, **measures)
    return HeldOutLine(id=name, sort=sort, prompt=name, opinion=opinion)


def lines(outcomes: str) -> list[HeldOutLine]:
    """Prompts a to d, plain, then t and u, which need a thought; ``1`` is right."""
    sorts: list[Sort] = ["plain"] * 4 + ["thought"] * 2
    return [
        line(name, digit == "1", sort)
        for name, digit, sort in zip("abcdtu", outcomes, sorts, strict=True)
    ]


def probe(step: int, share: float, prompts: int | None = 7) -> dict[str, Any]:
    figures = {"step": step, "heldout/plain_all_right": share, "heldout/thought_all_right": 1.0}
    return figures if prompts is None else figures | {PROMPT_SET: prompts}


METRICS = [{"step": 1}, probe(2, 0.5), {"step": 3}, {"step": 4}]
BEFORE, AFTER = lines("011001"), lines("100110")


def test_both_ends_are_of_the_probes_prompts() -> None:
    curve = heldout_curve(METRICS, BEFORE, AFTER, PROBED)
    # Of all four plain prompts 2 were right before and 2 after; of a and c 1 and 1.
    assert curve.points == {
        "plain": ((0.0, 0.5), (2.0, 0.5), (4.0, 0.5)),
        "thought": ((0.0, 0.0), (2.0, 1.0), (4.0, 1.0)),
    }
    assert curve.num_prompts == {"plain": 2, "thought": 1}
    assert curve.num_heldout == {"plain": 4, "thought": 2}
    assert curve.newest_share == pytest.approx((2 * 0.5 + 1) / 3)


def test_without_probes_both_ends_are_of_all_prompts() -> None:
    curve = heldout_curve([{"step": 9}], BEFORE, lines("111100"), PROBED)
    assert curve.points["plain"] == ((0.0, 0.5), (9.0, 1.0))
    assert curve.num_prompts == curve.num_heldout == {"plain": 4, "thought": 2}


def test_a_run_under_way_has_the_points_it_has_come_to() -> None:
    assert heldout_curve([], [], [], PROBED) == HeldOutCurve()
    assert heldout_curve([], [], [], PROBED).newest_share is None
    assert heldout_curve([], BEFORE, [], PROBED).points["plain"] == ((0.0, 0.5),)
    curve = heldout_curve(METRICS[:2], BEFORE, [], PROBED)
    assert curve.points["plain"] == ((0.0, 0.5), (2.0, 0.5))


def test_probes_of_other_prompts_and_ends_that_lack_some_are_left_out() -> None:
    metrics = [probe(2, 0.9, prompts=6), probe(4, 0.25, prompts=7), {"step": 5}]
    curve = heldout_curve(metrics, BEFORE[1:], AFTER, PROBED)
    assert curve.points["plain"] == ((4.0, 0.25), (5.0, 0.5)), "before lacks prompt a"
    assert curve.points["thought"][0] == (0.0, 0.0)


def test_without_an_oracle_the_curve_is_of_the_reward() -> None:
    before = [line("a", None, dvreward=0.25), line("b", None, dvreward=0.75)]
    metrics = [{"step": 3, "heldout/plain_dvreward": 0.5, PROMPT_SET: 1}]
    curve = heldout_curve(metrics, before, [], frozenset({"b"}))
    assert curve.measure == "dvreward"
    assert curve.points == {"plain": ((0.0, 0.75), (3.0, 0.5))}
    assert curve.newest_share is None


def test_a_run_of_an_earlier_version_probed_the_first_prompts_of_each_sort(tmp_path: Path) -> None:
    config = make_config(output=str(tmp_path), evaluation={"num_probe": 2})
    folder = RunFolder.create(config)
    assert probed_ids(folder, BEFORE) == {"a", "b", "t", "u"}
    metrics = [probe(2, 0.5, prompts=None), {"step": 3}]
    curve = heldout_curve(metrics, BEFORE, AFTER, probed_ids(folder, BEFORE))
    assert curve.points["plain"] == ((0.0, 0.5), (2.0, 0.5), (3.0, 0.5))


def shares(found: Sequence[HeldOutLine], ids: frozenset[str], sort: Sort) -> float:
    outcomes = [one.opinion.all_right for one in found if one.id in ids and one.sort == sort]
    return sum(map(bool, outcomes)) / len(outcomes)


def test_the_curve_of_a_run_is_that_of_its_files(tmp_path: Path) -> None:
    folder = make_run(tmp_path, steps=8, heldout=12)
    before, after = folder.evaluation("before"), folder.evaluation("after")
    ids = probed_ids(folder, before)
    curve = heldout_curve(folder.metrics(), before, after, ids)
    assert len(ids) == 12
    for sort in SORTS:
        steps, figures = zip(*curve.points[sort], strict=True)
        assert steps == (0, 4, 8)
        assert figures[0] == pytest.approx(shares(before, ids, sort))
        assert figures[1] == folder.metrics()[3][f"heldout/{sort}_all_right"]
        assert figures[2] == pytest.approx(shares(after, ids, sort))
        assert (curve.num_prompts[sort], curve.num_heldout[sort]) == (6, 12)
