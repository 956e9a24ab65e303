"""A picture and its questions as bytes: there and back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from alphagrpo.judging.questions import questions_from_records
from alphagrpo.types import Question
from services.raw_picture import pack, unpack

QUESTIONS = (
    Question(id="s0", text="is there a fox ?\nor two ?", kind="semantic", tag="Existence"),
    Question(id="q0", text="wie gut ? ü", kind="quality", tag="Whole", form="grade"),
)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_body_has_a_line_of_json_and_the_pixels(transposed):
    pixels = np.arange(10, 10 + 4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    pixels[0, 0] = 10  # line ends among the pixels
    if transposed:
        pixels = pixels.transpose(1, 0, 2)
    head, data = unpack(pack(pixels, QUESTIONS))
    asked = json.loads(head)
    assert (asked["height"], asked["width"]) == pixels.shape[:2]
    assert questions_from_records(asked["questions"]) == QUESTIONS
    assert np.array_equal(np.frombuffer(data, np.uint8).reshape(pixels.shape), pixels)


def test_a_body_without_a_line_end_is_all_head():
    head, data = unpack(b"{}")
    assert (head, bytes(data)) == (b"{}", b"")
