"""Riddles: descriptions that need a thought before a picture.

Every phrase has one answer and an identity of its own, so that a policy may know some phrases and
confuse others, and a run can show which of them it learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Slot = Literal["kind", "colour", "count"]

KIND_RIDDLES: Mapping[str, str] = {
    "round shape": "circle",
    "shape without corners": "circle",
    "shape like a wheel": "circle",
    "shape with four equal sides": "square",
    "shape like a window": "square",
    "shape like a box": "square",
    "shape with three sides": "triangle",
    "shape with three corners": "triangle",
    "shape like a tent": "triangle",
    "shape like a plus sign": "cross",
    "shape with four arms": "cross",
    "shape like two crossed bars": "cross",
}
"""Singular noun phrase to kind."""
COLOUR_RIDDLES: Mapping[str, str] = {
    "blood": "red",
    "a tomato": "red",
    "a strawberry": "red",
    "grass": "green",
    "a leaf": "green",
    "a frog": "green",
    "the sky": "blue",
    "the sea": "blue",
    "a whale": "blue",
    "a lemon": "yellow",
    "the sun": "yellow",
    "a banana": "yellow",
    "a plum": "purple",
    "a grape": "purple",
    "lavender": "purple",
    "a carrot": "orange",
    "a pumpkin": "orange",
    "a fox": "orange",
}
"""Used as ``in the colour of ...``."""
COUNT_RIDDLES: Mapping[str, str] = {
    "there are eyes on a face": "2",
    "a bird has legs": "2",
    "a bike has wheels": "2",
    "a triangle has corners": "3",
    "a traffic light has lamps": "3",
    "a fork has tips": "3",
    "a square has corners": "4",
    "a car has wheels": "4",
    "a dog has legs": "4",
}
"""Used as ``as many ... as ...``; the answer in digits."""
RIDDLES: Mapping[Slot, Mapping[str, str]] = {
    "kind": KIND_RIDDLES,
    "colour": COLOUR_RIDDLES,
    "count": COUNT_RIDDLES,
}


@dataclass(frozen=True, slots=True)
class Riddle:
    """One riddle phrase as used in a prompt."""

    slot: Slot
    phrase: str
    answer: str
    item: int
    """Index of the item of the specification it speaks of."""

    def to_json(self) -> dict[str, Any]:
        """JSON values only, for ``Prompt.metadata["riddles"]``."""
        return {"slot": self.slot, "phrase": self.phrase, "answer": self.answer, "item": self.item}


def riddle_noun(phrase: str, count: int) -> str:
    """``shape with three sides``, or ``shapes with three sides`` where there are several."""
    return phrase if count == 1 else phrase.replace("shape", "shapes", 1)
