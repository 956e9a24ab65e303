from __future__ import annotations

import json

import numpy as np
import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.shapes.render import mask, render
from alphagrpo.shapes.specs import (
    FAMILY_MIX,
    Item,
    Spec,
    random_scene,
    related,
    sample_scene,
    sample_spec,
    satisfies,
)
from alphagrpo.shapes.world import BACKGROUNDS, COLOURS, KINDS, Scene, SceneObject


def test_specs_survive_json() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        spec = sample_spec(rng)
        assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("family", FAMILY_MIX)
def test_sampled_scenes_satisfy_their_spec_and_no_changed_one(family: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        spec = sample_spec(rng, family)  # type: ignore[arg-type]
        scene = sample_scene(spec, rng)
        assert spec.family == family
        assert satisfies(scene, spec)
        assert not satisfies(Scene(scene.objects[1:], scene.background), spec)


@pytest.mark.parametrize(
    ("relation", "second"),
    [("left of", (0, 2)), ("right of", (2, 0)), ("above", (2, 0)), ("below", (0, 2))],
)
def test_a_relation_compares_rows_or_columns_alone_and_strictly(
    relation: str, second: tuple[int, int]
) -> None:
    across = relation in ("left of", "right of")
    assert related((1, 1), relation, second)
    assert not related(second, relation, (1, 1))
    level = (second[0], 1) if across else (1, second[1])
    assert not related((1, 1), relation, level)
    assert not related(level, relation, (1, 1))


def test_mirrored_relations_have_one_normal_form() -> None:
    a, b = Item(1, "red", "circle"), Item(1, "blue", "square")
    assert Spec((a, b), "right of").normal() == Spec((b, a), "left of").normal()
    assert Spec((a, b), "left of").normal() != Spec((b, a), "left of").normal()
    assert Spec((a, b)).normal() == Spec((b, a)).normal()


@pytest.mark.parametrize(
    ("items", "rest"),
    [
        ((), {}),
        ((Item(5, "red", "circle"),), {}),
        ((Item(1, "pink", "circle"),), {}),
        ((Item(1, "red", "circle"), Item(2, "red", "circle")), {}),
        ((Item(2, "red", "circle"), Item(1, "blue", "cross")), {"relation": "above"}),
        ((Item(1, "red", "circle"),), {"absent": "circle"}),
        ((Item(1, "red", "circle"),), {"background": "green"}),
    ],
)
def test_specs_that_cannot_be_drawn_are_refused(items: tuple[Item, ...], rest: dict) -> None:
    with pytest.raises(ConfigError):
        Spec(items, **rest)


def test_a_cell_holds_one_object() -> None:
    with pytest.raises(ConfigError, match="one object"):
        Scene((SceneObject("circle", "red", 0, 0), SceneObject("cross", "red", 0, 0)), "black")


def test_rendering_puts_the_object_in_its_cell() -> None:
    picture = render(Scene((SceneObject("circle", "red", 2, 0),), "white"))
    assert picture.shape == (48, 48, 3)
    assert picture.dtype == np.uint8
    assert tuple(picture[40, 8]) == COLOURS["red"]
    changed = (picture != BACKGROUNDS["white"]).any(axis=-1)
    assert changed[32:, :16].sum() > 100
    assert changed.sum() == changed[32:, :16].sum()


def test_rendering_is_a_function_of_scene_and_seed() -> None:
    scene = random_scene(np.random.default_rng(3))
    assert (render(scene) == render(scene)).all()
    first, second, other = (render(scene, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert (first == second).all()
    assert (first != other).any()


def test_shapes_fill_their_cell_and_differ() -> None:
    for kind in KINDS:
        rows = np.flatnonzero(mask(kind).max(axis=1) > 0.5)
        assert 11 <= rows[-1] - rows[0] + 1 <= 13
    areas = [mask(kind).sum() for kind in KINDS]
    assert len({round(float(area)) for area in areas}) == len(KINDS)
