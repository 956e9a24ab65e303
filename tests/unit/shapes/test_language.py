from __future__ import annotations

import numpy as np
import pytest

from alphagrpo.shapes.language import (
    canonical,
    describe,
    parse_canonical,
    thought,
    thought_is_right,
)
from alphagrpo.shapes.prompts import sample_wording
from alphagrpo.shapes.riddles import RIDDLES
from alphagrpo.shapes.specs import Item, Spec, sample_spec
from alphagrpo.shapes.world import Scene, SceneObject


def test_canonical_sentences_parse_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        spec = sample_spec(rng)
        assert parse_canonical(canonical(spec)) == spec
        assert thought_is_right(thought(spec), spec)


def test_plain_wordings_mean_their_spec() -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        wording = sample_wording("plain", rng)
        assert parse_canonical(wording.text) == wording.spec, wording.text
        assert wording.riddles == ()


def test_riddle_wordings_need_a_thought() -> None:
    rng = np.random.default_rng(2)
    for _ in range(500):
        wording = sample_wording("thought", rng)
        assert parse_canonical(wording.text) is None, wording.text
        assert wording.riddles
        for riddle in wording.riddles:
            assert RIDDLES[riddle.slot][riddle.phrase] == riddle.answer
            item = wording.spec.items[riddle.item]
            assert riddle.answer in (str(item.number), item.colour, item.kind)


@pytest.mark.parametrize(
    "text",
    [
        "<think> A red circle, left of a blue square. </think>",
        "a blue square right of a red circle",
        "one red circle to the left of one blue square",
    ],
)
def test_thoughts_in_other_words_are_right(text: str) -> None:
    items = (Item(1, "red", "circle"), Item(1, "blue", "square"))
    assert thought_is_right(text, Spec(items, "left of"))


@pytest.mark.parametrize(
    "text", ["", "a red circle", "a red circle right of a blue square", "<think> nonsense </think>"]
)
def test_wrong_thoughts_are_wrong(text: str) -> None:
    items = (Item(1, "red", "circle"), Item(1, "blue", "square"))
    assert not thought_is_right(text, Spec(items, "left of"))


@pytest.mark.parametrize(
    "text",
    [
        "a red",
        "five red circles",
        "a red circle and a red circle",
        "four red circles and a blue cross",
    ],
)
def test_what_no_picture_shows_does_not_parse(text: str) -> None:
    assert parse_canonical(text) is None


def test_captions_count_what_is_alike() -> None:
    things = [("circle", "red"), ("cross", "blue"), ("circle", "red"), ("square", "orange")]
    scene = Scene(
        tuple(SceneObject(*t, 0 if i < 3 else 1, i % 3) for i, t in enumerate(things)), "gray"
    )
    assert (
        describe(scene)
        == "two red circles , a blue cross and an orange square on a gray background"
    )
