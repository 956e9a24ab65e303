"""A picture and its questions as bytes: there and back."""

from __future__ import annotations

import json

import numpy as np

from alphagrpo.judging.questions import questions_from_records
from alphagrpo.types import Question
from services.raw_picture import pack, unpack

QUESTIONS = (
    Question(id="s0", text="is there a fox ?\nor two ?", kind="semantic", tag="Existence"),
    Question(id="q0", text="wie gut ? ü", kind="quality", tag="Whole", form="grade"),
)


def test_a_body_has_a_line_of_json_and_the_pixels_of_all():
    pixels = np.arange(10, 10 + 4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    pixels[0, 0] = 10  # line ends among the pixels
    pictures = [pixels, pixels.transpose(1, 0, 2), pixels[:2]]
    head, data = unpack(pack([(one, QUESTIONS[i % 2 :]) for i, one in enumerate(pictures)]))
    asked = json.loads(head)
    assert [(one["height"], one["width"]) for one in asked] == [(4, 5), (5, 4), (2, 5)]
    for i, one in enumerate(asked):
        assert questions_from_records(one["questions"]) == QUESTIONS[i % 2 :]
    assert bytes(data) == b"".join(one.tobytes() for one in pictures)


def test_a_body_without_a_line_end_is_all_head():
    head, data = unpack(b"{}")
    assert (head, bytes(data)) == (b"{}", b"")
