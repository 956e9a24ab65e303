"""How specifications are sampled and worded, by sort; and what the splits hold out."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from alphagrpo.shapes.grammar import Reading, parse_question
from alphagrpo.shapes.language import thought_is_right
from alphagrpo.shapes.prompts import (
    THOUGHT_MIX,
    Wording,
    plain_wording,
    riddle_wording,
    sample_wording,
)
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.riddles import RIDDLES, Riddle, riddle_noun
from alphagrpo.shapes.specs import (
    ABSENCE_SHARE,
    BACKGROUND_SHARE,
    Item,
    Spec,
    sample_scene,
    sample_spec,
)
from alphagrpo.shapes.splits import (
    held_out_singles,
    is_held_out_key,
    sample_split_wording,
    split_of,
    to_prompt,
    wording_keys,
)
from alphagrpo.shapes.world import COLOUR_NAMES, KINDS, Scene

RED_CIRCLE, BLUE_SQUARE = Item(1, "red", "circle"), Item(1, "blue", "square")


def test_thought_prompts_have_their_own_mix_of_families() -> None:
    rng = np.random.default_rng(0)
    families = Counter(sample_wording("thought", rng).spec.family for _ in range(2000))
    assert families.keys() == THOUGHT_MIX.keys()
    for family, share in THOUGHT_MIX.items():
        assert families[family] / 2000 == pytest.approx(share, abs=0.04)


def test_a_prompt_names_a_background_or_an_absence_or_neither() -> None:
    rng = np.random.default_rng(1)
    specs = [sample_spec(rng) for _ in range(2000)]
    grounds = np.mean([spec.background is not None for spec in specs])
    absences = np.mean([spec.absent is not None for spec in specs])
    assert grounds == pytest.approx(BACKGROUND_SHARE, abs=0.04)
    assert absences == pytest.approx(ABSENCE_SHARE, abs=0.03)
    assert not [spec for spec in specs if spec.background and spec.absent]


def test_riddles_replace_the_words_they_stand_for() -> None:
    spec = Spec((Item(3, "red", "circle"),))
    rng = np.random.default_rng(2)
    for _ in range(100):
        wording = riddle_wording(spec, rng)
        slots = {riddle.slot: riddle for riddle in wording.riddles}
        assert ("red" in wording.text) == ("colour" not in slots)
        assert ("circles" in wording.text) == ("kind" not in slots)
        assert ("three" in wording.text.replace("three sides", "")) == ("count" not in slots)
        for slot, riddle in slots.items():
            phrase = riddle_noun(riddle.phrase, 3) if slot == "kind" else riddle.phrase
            assert phrase in wording.text


def test_the_share_of_riddles_is_that_of_the_call() -> None:
    spec, rng = Spec((RED_CIRCLE, BLUE_SQUARE)), np.random.default_rng(3)
    always = [riddle_wording(spec, rng, 1.0) for _ in range(20)]
    assert {len(wording.riddles) for wording in always} == {4}
    rarely = [len(riddle_wording(spec, rng, 0.1).riddles) for _ in range(200)]
    assert min(rarely) == 1
    assert np.mean(rarely) < 1.5


@pytest.mark.parametrize("relation", ["left of", "right of", "above", "below"])
def test_a_relation_keeps_its_direction_in_every_wording(relation: str) -> None:
    spec, rng = Spec((RED_CIRCLE, BLUE_SQUARE), relation), np.random.default_rng(4)
    turned = Spec((BLUE_SQUARE, RED_CIRCLE), relation)
    texts = {plain_wording(spec, rng).text for _ in range(60)}
    assert len(texts) > 5
    assert all(thought_is_right(text, spec) for text in texts)
    assert not any(thought_is_right(text, turned) for text in texts)


@pytest.mark.parametrize("sort", ["plain", "thought"])
def test_wordings_of_a_split_are_of_that_split(sort: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        train = sample_split_wording("train", sort, rng)  # type: ignore[arg-type]
        held_out = sample_split_wording("heldout", sort, rng)  # type: ignore[arg-type]
        assert not any(map(is_held_out_key, wording_keys(train)))
        assert any(map(is_held_out_key, wording_keys(held_out)))


def test_one_held_out_riddle_is_enough() -> None:
    # Neither combination of objects is held out; the words of the first item are.
    phrase = next(p for p in RIDDLES["kind"] if is_held_out_key(("riddle", p, "blue")))
    kind = RIDDLES["kind"][phrase]
    spec = Spec((Item(1, "blue", kind),))
    assert split_of(Wording("plain", spec)) == "train"
    riddle = Riddle("kind", phrase, kind, 0)
    assert split_of(Wording("riddle", spec, (riddle,))) == "heldout"
    elsewhere = Spec((Item(1, "green", kind), Item(1, "blue", kind)))
    assert wording_keys(Wording("riddle", elsewhere, (riddle,)))[-1] == ("riddle", phrase, "green")


def test_the_held_out_combinations_are_those_the_shipped_models_never_saw() -> None:
    assert held_out_singles() == {
        ("single", "orange", "cross"),
        ("single", "purple", "triangle"),
        ("single", "red", "circle"),
        ("single", "yellow", "square"),
    }
    things = sorted((colour, kind) for colour in COLOUR_NAMES for kind in KINDS)
    pairs = [("pair", *first, *second) for first, second in combinations(things, 2)]
    assert sum(map(is_held_out_key, pairs)) == 55


def test_keys_do_not_know_the_order_of_items_but_counts_do() -> None:
    first = wording_keys(Wording("", Spec((RED_CIRCLE, BLUE_SQUARE))))
    second = wording_keys(Wording("", Spec((BLUE_SQUARE, RED_CIRCLE), "above")))
    assert first == second == (("pair", "blue", "square", "red", "circle"),)
    counted = wording_keys(Wording("", Spec((RED_CIRCLE, Item(2, "blue", "square")))))
    assert counted == (("count", "2", "blue", "square"), *first)


def test_a_prompts_record_holds_its_riddles_split_and_sort() -> None:
    riddle = Riddle("kind", "round shape", "circle", 0)
    prompt = to_prompt(
        Wording("a red round shape", Spec((RED_CIRCLE,)), (riddle,)), "train", "thought"
    )
    assert prompt.id.startswith("shapes-train-thought-")
    assert prompt.metadata["riddles"] == [
        {"slot": "kind", "phrase": "round shape", "answer": "circle", "item": 0}
    ]
    assert (prompt.metadata["split"], prompt.metadata["sort"]) == ("train", "thought")
    assert Spec.from_json(prompt.metadata["spec"]) == Spec((RED_CIRCLE,))


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_count_and_a_total_notice_one_object_less(number: int) -> None:
    spec = Spec((Item(number, "red", "circle"),))
    scene = sample_scene(spec, np.random.default_rng(number))
    less = Reading.of_scene(Scene(scene.objects[1:], scene.background))
    predicates = [parse_question(q.text) for q in reference_questions(spec) if q.kind == "semantic"]
    assert all(predicate.holds(Reading.of_scene(scene)) for predicate in predicates)
    truths = {predicate.type: predicate.holds(less) for predicate in predicates}
    assert truths == {"count": False, "attribute": True, "total": False}
