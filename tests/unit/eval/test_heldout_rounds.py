"""Rounds on held-out prompts: two chains from one picture, what is shared, what is kept."""

from __future__ import annotations

import pytest

from alphagrpo.eval.figures import summarise, summarise_rounds
from alphagrpo.eval.heldout import HeldOutJudges
from alphagrpo.eval.oracles import ReflectionCheck, shapes_reflection
from alphagrpo.rollout.rounds import round_seed
from alphagrpo.shapes.language import canonical
from alphagrpo.shapes.render import render
from alphagrpo.shapes.specs import Item, Spec
from alphagrpo.shapes.world import Scene, SceneObject
from alphagrpo.types import Prompt
from tests.fakes import FakeVerifier
from tests.shades import evaluate_shades, shade_answer, shade_judges


async def test_chains_part_where_the_gate_refuses_and_share_what_is_the_same() -> None:
    # Draft 40; round 1 gives 20, which the gate refuses; round 2 of "last" 70, of "gated" 60.
    pool, (line,) = await evaluate_shades({"a": [40, 20, 70, 60]}, rounds=2)
    first, second = line.rounds
    assert len(pool.requests) == 4, "round 1 is one refinement for both chains"
    assert (first["last"].kept, first["gated"].kept) == (True, False)
    held = (first["last"].held.dvreward, first["gated"].held.dvreward)
    assert held == pytest.approx((0.2, 0.4))
    assert second["last"].reflection == "shade 70 from 20"
    assert second["gated"].reflection == "shade 60 from 40"
    assert (second["last"].held.all_right, second["gated"].held.all_right) == (True, True)
    opinion = line.opinion
    assert opinion.dvreward == pytest.approx(0.4), "the line's own is of the first picture"


async def test_the_gate_keeps_the_earlier_picture_on_a_tie() -> None:
    _, (line,) = await evaluate_shades({"a": [40, 40, 40, 40]}, rounds=2)
    assert [entry["gated"].kept for entry in line.rounds] == [False, False]
    assert [entry["last"].kept for entry in line.rounds] == [True, True]


async def test_a_round_begins_from_the_picture_its_chain_holds_and_has_a_seed_of_its_own() -> None:
    pool, _ = await evaluate_shades({"a": [40, 60, 50, 70, 80]}, rounds=3)
    draft, *refinements = pool.requests
    starts = [int(request.start.latents[0, 0]) for request in refinements if request.start]
    assert starts == [40, 60, 50, 60], "in round 3 last begins from 50, gated from 60"
    assert draft.start is None
    seeds = [request.seed for request in refinements]
    assert seeds == [round_seed(draft.seed, index) for index in (1, 2, 3, 3)]
    assert pool.versions == {3}


async def test_each_prompt_holds_its_own_pictures() -> None:
    _, lines = await evaluate_shades({"a": [10, 20], "b": [30, 25], "c": [70, 75]}, rounds=1)
    reflections = [line.rounds[0]["gated"].reflection for line in lines]
    assert reflections == ["shade 20 from 10", "shade 25 from 30", "shade 75 from 70"]
    held = [line.rounds[0]["gated"].held.dvreward for line in lines]
    assert held == pytest.approx([0.2, 0.3, 0.75])
    sides = [(line.rounds[0]["last"].before, line.rounds[0]["last"].tried) for line in lines]
    assert [before.picture for before, _ in sides] == [line.opinion.picture for line in lines]
    assert [tried.dvreward for _, tried in sides] == pytest.approx([0.2, 0.25, 0.75])


async def test_figures_count_what_was_mended_and_what_was_broken() -> None:
    shades = {
        "mended": [40, 60],
        "broken": [60, 40],
        "still wrong": [10, 20],
        "still right": [80, 90],
    }
    _, lines = await evaluate_shades(shades, rounds=1)
    rounds = summarise(lines)["plain"].refined
    assert rounds is not None
    last, gated = rounds["round1"]["last"], rounds["round1"]["gated"]
    assert (last.mended, last.broken) == (0.5, 0.5)
    assert (last.improved, last.harmed) == (0.25, 0.25)
    assert (last.all_right, gated.all_right) == (0.5, 0.75)
    assert (last.strict, last.extra) == (0.25, 0.25)
    assert last.named == 0.5, "of two pictures with a defect one reflection names it"
    assert last.all_right_gain is not None
    assert gated.all_right_gain is not None
    assert (last.all_right_gain.mean, gated.all_right_gain.mean) == (0.0, 0.25)
    assert (last.kept, gated.kept) == (1.0, 0.75)


async def test_a_second_round_is_compared_with_the_first_picture() -> None:
    _, lines = await evaluate_shades({"a": [40, 45, 60]}, rounds=2)
    second = summarise_rounds(lines)["round2"]["gated"]
    assert second.all_right_gain is not None
    assert second.all_right_gain.mean == 1.0
    assert (second.mended, second.broken) == (1.0, None)


async def test_only_rounds_that_every_line_has_have_figures() -> None:
    _, longer = await evaluate_shades({"a": [40, 45, 60]}, rounds=2)
    _, shorter = await evaluate_shades({"b": [40, 45]}, rounds=1)
    assert list(summarise_rounds([*longer, *shorter])) == ["round1"]


async def test_a_refinement_without_a_score_is_not_kept_by_the_gate() -> None:
    judges = shade_judges(verifier=FakeVerifier(shade_answer, fail_calls=[1]))
    _, (line,) = await evaluate_shades({"a": [40, 90]}, rounds=1, judges=judges)
    gated = line.rounds[0]["gated"]
    assert not gated.kept
    assert gated.tried.dvreward is None
    assert gated.held.dvreward == pytest.approx(0.4)


async def test_a_first_picture_without_a_score_gives_way_to_one_with_a_score() -> None:
    judges = shade_judges(verifier=FakeVerifier(shade_answer, fail_calls=[0]))
    _, (line,) = await evaluate_shades({"a": [90, 20]}, rounds=1, judges=judges)
    assert line.rounds[0]["gated"].kept
    assert line.rounds[0]["gated"].held.dvreward == pytest.approx(0.2)


async def test_without_judges_pictures_are_refined_and_figures_are_absent() -> None:
    _, lines = await evaluate_shades({"a": [40, 90]}, rounds=1, judges=HeldOutJudges())
    last = summarise_rounds(lines)["round1"]["last"]
    assert last.all_right is last.mended is last.named is last.improved is last.harmed is None
    assert last.all_right_gain is last.all_right_interval is None
    assert last.kept == 1.0


async def test_no_rounds_no_figures() -> None:
    _, lines = await evaluate_shades({"a": [40]})
    assert lines[0].rounds == ()
    assert summarise(lines)["plain"].refined is None
    assert summarise_rounds([]) == {}


def test_reflections_are_measured_by_what_is_really_wrong() -> None:
    spec = Spec((Item(1, "red", "circle"),))
    prompt = Prompt(id="p", text=canonical(spec), metadata={"spec": spec.to_json()})
    blue = render(Scene((SceneObject("circle", "blue", 1, 1),), "black"))
    red = render(Scene((SceneObject("circle", "red", 1, 1),), "black"))
    good = shapes_reflection(prompt, blue, "<think>the circle is blue , it should be red</think>")
    assert good == ReflectionCheck(defects=1, named=True)
    assert shapes_reflection(prompt, blue, "<think>nothing is wrong</think>").named is False
    assert shapes_reflection(prompt, red, "nothing is wrong") == ReflectionCheck(defects=0)
