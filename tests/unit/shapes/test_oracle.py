from __future__ import annotations

import numpy as np
import pytest

from alphagrpo.errors import BadImage, ConfigError
from alphagrpo.shapes.grammar import QUALITY_TEXT, parse_question
from alphagrpo.shapes.oracle import judge, judge_many, read, read_many
from alphagrpo.shapes.render import render, render_many
from alphagrpo.shapes.specs import Item, Spec, random_scene, sample_scene, sample_spec
from alphagrpo.shapes.world import COLOUR_NAMES, KINDS, Scene, SceneObject
from miniature.corrupt import CORRUPTIONS, corrupt, random_corruption
from miniature.oracle_check import OVERALL, check_oracle


def test_the_oracle_is_right_on_clean_renders() -> None:
    tallies = check_oracle(300, seed=0)
    semantic = ["existence", "attribute", "count", "total", "spatial", "background", "negative"]
    assert {*semantic, *QUALITY_TEXT, OVERALL} == set(tallies)
    for type_, tally in tallies.items():
        assert tally.accuracy >= 0.995, (type_, tally)
        assert 0 < tally.yes < tally.asked, f"{type_} has answers of one kind only"


def test_every_object_is_read_in_every_cell() -> None:
    for background in ("black", "gray", "white"):
        for kind in KINDS:
            for index, colour in enumerate(COLOUR_NAMES):
                scene = Scene((SceneObject(kind, colour, index // 3, index % 3),), background)
                reading = read(render(scene, np.random.default_rng(index)))
                (seen,) = reading.objects
                assert (seen.kind, seen.colour, seen.row, seen.col) == scene.objects[0]
                assert reading.background == background


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_flaws_at_full_severity_are_seen(name: str) -> None:
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng) for _ in range(200)]
    readings = read_many(np.stack([corrupt(scene, name, 1.0, rng) for scene in scenes]))
    for type_ in CORRUPTIONS[name].spoils:
        predicate = parse_question(QUALITY_TEXT[type_])
        assert np.mean([not predicate.holds(reading) for reading in readings]) >= 0.95


@pytest.mark.parametrize(
    "name", sorted(set(CORRUPTIONS) - {"cut", "patchy", "shift", "double", "mix"})
)
def test_a_slight_flaw_changes_nothing(name: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        scene = random_scene(rng)
        reading, clean = read(corrupt(scene, name, 0.02, rng)), read(render(scene))
        assert reading.objects == clean.objects
        assert reading.complete
        assert reading.even_background


def test_corruptions_are_a_function_of_the_seed() -> None:
    scene = random_scene(np.random.default_rng(3))
    first, second = (random_corruption(scene, np.random.default_rng(4)) for _ in range(2))
    assert first[0] == second[0]
    assert (first[1] == second[1]).all()


@pytest.mark.parametrize(("name", "severity"), [("melt", 0.5), ("blur", 1.5), ("blur", -0.1)])
def test_impossible_corruptions_are_refused(name: str, severity: float) -> None:
    scene = random_scene(np.random.default_rng(5))
    with pytest.raises(ConfigError):
        corrupt(scene, name, severity, np.random.default_rng(6))


def test_judging_a_right_and_a_wrong_picture() -> None:
    spec = Spec((Item(1, "red", "circle"),), background="black")
    right = Scene((SceneObject("circle", "red", 1, 1),), "black")
    more = Scene((*right.objects, SceneObject("cross", "blue", 0, 0)), "black")
    wrong = Scene((SceneObject("circle", "blue", 1, 1),), "black")
    good, extra, bad = judge_many([spec] * 3, render_many([right, more, wrong]))
    assert good.all_right
    assert good.strict
    assert good.clean
    assert not good.extra
    assert extra.all_right
    assert extra.extra
    assert not extra.strict
    assert not bad.all_right
    assert not bad.extra


def test_smudges_are_unclear_things() -> None:
    picture = render(Scene((SceneObject("circle", "red", 0, 0),), "white"))
    picture[20:25, 17:31] = (38, 92, 226)
    picture[40:48, 40:48] = (38, 92, 226)
    reading = read(picture)
    assert reading.unclear >= 1
    assert not judge(Spec((Item(1, "red", "circle"),)), reading).strict


@pytest.mark.parametrize("level", [0, 255])
def test_an_empty_picture_satisfies_nothing(level: int) -> None:
    rng = np.random.default_rng(7)
    picture = np.full((48, 48, 3), level, np.uint8)
    assert read(picture).objects == ()
    assert not any(judge(sample_spec(rng), read(picture)).all_right for _ in range(30))


def test_noise_satisfies_nothing() -> None:
    rng = np.random.default_rng(8)
    picture = rng.integers(0, 256, (48, 48, 3)).astype(np.uint8)
    assert not any(judge(sample_spec(rng), read(picture)).strict for _ in range(30))


def test_reading_alone_and_in_a_batch_agree() -> None:
    rng = np.random.default_rng(9)
    pictures = render_many([sample_scene(sample_spec(rng), rng) for _ in range(8)])
    assert read_many(pictures) == [read(picture) for picture in pictures]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 64, 64, 3), np.uint8), ((1, 48, 48, 3), np.float32)]
)
def test_other_pictures_are_refused(shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(BadImage, match="48"):
        read_many(np.zeros(shape, dtype))
