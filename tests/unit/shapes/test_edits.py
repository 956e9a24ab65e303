from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from alphagrpo.shapes.edits import (
    NO_CHANGE,
    NOTHING_WRONG,
    EditName,
    comparison,
    defects,
    difference,
    edit,
    edit_outcome,
    names_a_defect,
    near_miss,
    reflection,
)
from alphagrpo.shapes.oracle import read
from alphagrpo.shapes.render import render
from alphagrpo.shapes.specs import Item, Spec, random_scene, sample_scene, sample_spec, satisfies
from alphagrpo.shapes.world import Scene, SceneObject

RED_CIRCLE = SceneObject("circle", "red", 0, 0)
BLUE_SQUARE = SceneObject("square", "blue", 1, 2)


@pytest.mark.parametrize("name", get_args(EditName))
def test_an_edit_is_followed_by_its_own_result_only(name: EditName) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        scene = Scene((RED_CIRCLE, BLUE_SQUARE), "gray")
        change = edit(scene, rng, name)
        assert change.name == name
        done = edit_outcome(scene, change, read(render(change.scene)))
        assert done.followed
        assert done.kept
        assert not edit_outcome(scene, change, read(render(scene))).followed
        assert difference(scene, change.scene) != NO_CHANGE


def test_an_edit_that_disturbs_the_rest_is_seen() -> None:
    scene = Scene((RED_CIRCLE, BLUE_SQUARE), "gray")
    change = edit(scene, np.random.default_rng(1), "background")
    ruined = Scene((RED_CIRCLE,), change.scene.background)
    outcome = edit_outcome(scene, change, read(render(ruined)))
    assert outcome.followed
    assert not outcome.kept


def test_an_added_object_may_lie_anywhere() -> None:
    scene = Scene((RED_CIRCLE,), "gray")
    change = edit(scene, np.random.default_rng(2), "add")
    added = next(item for item in change.scene.objects if item != RED_CIRCLE)
    cell = next(cell for cell in scene.free_cells if cell != (added.row, added.col))
    elsewhere = Scene((RED_CIRCLE, SceneObject(added.kind, added.colour, *cell)), "gray")
    outcome = edit_outcome(scene, change, read(render(elsewhere)))
    assert outcome.followed
    assert outcome.kept


def test_there_are_defects_exactly_where_a_spec_is_not_satisfied() -> None:
    rng = np.random.default_rng(3)
    names = set()
    for _ in range(600):
        spec = sample_spec(rng)
        scene = near_miss(spec, rng) if rng.random() < 0.7 else random_scene(rng)
        found = defects(spec, scene)
        names |= {defect.name for defect in found}
        assert bool(found) != satisfies(scene, spec)
        assert (comparison(spec, scene) == NOTHING_WRONG) == (not found)
    assert names == {"colour", "kind", "missing", "extra", "relation", "background"}


@pytest.mark.parametrize(
    ("objects", "text"),
    [
        ((("circle", "red"),), NOTHING_WRONG),
        (
            (("circle", "blue"),),
            "the circle is blue , it should be red , so make the blue circle red",
        ),
        ((("cross", "red"),), "the red cross should be a circle , so make the red cross a circle"),
        ((), "the red circle is missing , so add a red circle"),
        (
            (("circle", "red"), ("cross", "blue")),
            "the blue cross should not be there , so remove a blue cross",
        ),
        (
            (("circle", "red"), ("circle", "red")),
            "there are two red circles , there should be one , so remove a red circle",
        ),
    ],
)
def test_reflections_say_what_is_wrong_and_what_to_do(
    objects: tuple[tuple[str, str], ...], text: str
) -> None:
    scene = Scene(tuple(SceneObject(*name, 0, i) for i, name in enumerate(objects)), "black")
    assert reflection(Spec((Item(1, "red", "circle"),)), scene) == text


def test_a_reflection_is_true_of_its_own_picture_only() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        spec = sample_spec(rng)
        scene = near_miss(spec, rng)
        found = defects(spec, scene)
        assert names_a_defect(f"<think>{reflection(spec, scene)}</think>", found) == bool(found)
        assert not names_a_defect(reflection(spec, scene), defects(spec, sample_scene(spec, rng)))
        assert not names_a_defect(NOTHING_WRONG, found)


def test_a_flawed_picture_has_a_quality_defect() -> None:
    picture = render(Scene((RED_CIRCLE,), "white"))
    picture[:8, :16] = (246, 246, 244)
    found = defects(Spec((Item(1, "red", "circle"),)), read(picture))
    assert {defect.name for defect in found} & {"quality", "unclear"}


def test_difference_tells_each_change() -> None:
    before = Scene((RED_CIRCLE, BLUE_SQUARE), "gray")
    after = Scene((SceneObject("circle", "orange", 0, 0),), "white")
    assert difference(before, after) == (
        "the red circle is now an orange circle , the blue square is gone , "
        "the background is now white"
    )
    assert difference(before, before) == NO_CHANGE
