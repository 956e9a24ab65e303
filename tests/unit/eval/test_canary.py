"""The canary: its renders and files, and what is made of a judge's answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.eval.canary import (
    ask_canary,
    canary_figures,
    fingerprint,
    load_canary,
    marked,
    shapes_canary,
)
from alphagrpo.eval.world_verifier import ShapesVerifier
from alphagrpo.images import encode_png, image_hash
from alphagrpo.types import Question
from tests.fakes import FakeVerifier

CANARY = shapes_canary(12)


async def test_the_oracle_knows_every_answer_of_the_renders() -> None:
    answers, judge = await ask_canary(CANARY, ShapesVerifier(), 3)
    figures = canary_figures(CANARY, answers, answers)
    assert judge == "oracle@shapes"
    assert figures is not None
    assert (figures.accuracy, figures.error, figures.change, figures.drift) == (1, 0, 0, 0)
    assert figures.answered == figures.of == len(answers)
    truth = [answer for picture in CANARY for answer in picture.answers]
    assert 0.1 < truth.count(False) / len(truth) < 0.9, "or yes to all would do well"


def test_the_renders_are_always_the_same_and_more_of_them_begin_alike() -> None:
    assert fingerprint(shapes_canary(12)) == fingerprint(CANARY) != fingerprint(CANARY[:11])
    assert np.array_equal(shapes_canary(3)[2].pixels, CANARY[2].pixels)


async def test_drift_is_the_largest_of_three_changes() -> None:
    truth = {key: float(a) for p in CANARY for key, a in zip(p.keys, p.answers, strict=True)}
    sure = {key: 0.9 if answer else 0.1 for key, answer in truth.items()}
    unsure = {key: 0.6 if answer else 0.4 for key, answer in truth.items()}
    figures = canary_figures(CANARY, unsure, sure)
    assert figures is not None
    assert figures.accuracy == 1
    assert figures.error == pytest.approx(0.4)
    assert figures.drift == pytest.approx(0.3)
    wrong = {key: 1 - p for key, p in sure.items()}
    figures = canary_figures(CANARY, wrong, sure)
    assert figures is not None
    assert figures.drift == 1
    assert canary_figures(CANARY, sure, unsure).drift == pytest.approx(0.3), "better is other too"


async def test_a_picture_without_verdicts_is_left_out_and_half_of_them_are_needed() -> None:
    answers, _ = await ask_canary(CANARY, FakeVerifier(fail_calls=(0, 1)), 1)
    figures = canary_figures(CANARY, answers, answers)
    assert figures is not None
    assert figures.answered == len(answers) < figures.of
    few = dict(list(answers.items())[: figures.of // 2 - 1])
    assert canary_figures(CANARY, few, answers) is None
    assert await ask_canary(CANARY, FakeVerifier(fail_calls=range(12)), 1) == ({}, "")


def test_a_verifier_that_remembers_sees_another_picture_at_every_step() -> None:
    pixels = CANARY[0].pixels
    names = {image_hash(marked(pixels, step)) for step in range(300)}
    assert len(names) == 300
    assert np.abs(marked(pixels, 5).astype(int) - pixels).max() <= 1
    assert image_hash(pixels) == image_hash(CANARY[0].pixels), "the canary itself stays"


def write(folder: Path, *records: object) -> Path:
    (folder / "a.png").write_bytes(encode_png(CANARY[0].pixels))
    path = folder / "canary.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def test_a_file_names_pictures_from_its_own_folder(tmp_path: Path) -> None:
    record = {"picture": "a.png", "questions": ["is it red ?", "is it new ?"],
              "answers": [True, False]}  # fmt: skip
    (picture,) = load_canary(str(write(tmp_path, record)))
    assert np.array_equal(picture.pixels, CANARY[0].pixels)
    assert picture.answers == (True, False)
    assert picture.questions[1] == Question(
        id="s1", text="is it new ?", kind="semantic", tag="Canary"
    )
    assert len({*picture.keys, *replace(picture, pixels=CANARY[1].pixels).keys}) == 4


@pytest.mark.parametrize(
    "record",
    [
        [],
        {"picture": "a.png", "questions": ["is it red ?"]},
        {"picture": "a.png", "questions": ["is it red ?"], "answers": [1]},
        {"picture": "a.png", "questions": ["is it red ?"], "answers": []},
        {"picture": "a.png", "questions": [], "answers": []},
        {"picture": "b.png", "questions": ["is it red ?"], "answers": [True]},
        {"picture": "canary.jsonl", "questions": ["is it red ?"], "answers": [True]},
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, record: object) -> None:
    good = {"picture": "a.png", "questions": ["is it red ?"], "answers": [True]}
    path = write(tmp_path, good, record)
    with pytest.raises(ConfigError, match=f"line 2 of {path} is not.*fix or remove"):
        load_canary(str(path))


def test_a_file_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_canary(str(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match="at least one picture"):
        load_canary(str(write(tmp_path)))
