"""The closed grammar of questions: text to predicate, predicate to answer.

A predicate is answered from a :class:`Reading`, which is what is seen of a picture: by the oracle
from its pixels, or from the scene itself where the truth is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from alphagrpo.errors import ConfigError
from alphagrpo.shapes.language import KIND_OF, NUMBERS
from alphagrpo.shapes.specs import RELATIONS, related
from alphagrpo.shapes.world import BACKGROUND_NAMES, COLOUR_NAMES, KINDS, Scene

QuestionType = Literal[
    "existence", "attribute", "count", "total", "spatial", "background", "negative",
    "geometry", "texture", "coherence",
]  # fmt: skip
QUALITY_TEXT: Mapping[QuestionType, str] = {
    "geometry": "are the shapes complete and clean ?",
    "texture": "is every object of one even colour ?",
    "coherence": "is the background even ?",
}
"""The three quality questions of the world, by type."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One occupied cell. A None is something that is not clear."""

    kind: str | None
    colour: str | None
    row: int
    col: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What is seen of one picture."""

    objects: tuple[Seen, ...]
    background: str | None
    complete: bool = True
    """No shape is cut, blurred, ghostly or doubled (question type ``geometry``)."""
    even_colour: bool = True
    """Every object has one colour throughout (``texture``)."""
    even_background: bool = True
    """The background has one colour throughout (``coherence``)."""

    @property
    def unclear(self) -> int:
        """Number of things that are there but of no kind."""
        return sum(thing.kind is None for thing in self.objects)

    @classmethod
    def of_scene(cls, scene: Scene) -> Reading:
        """What is seen of a flawless picture of the scene."""
        return cls(tuple(Seen(*item) for item in scene.objects), scene.background)


@dataclass(frozen=True, slots=True)
class Predicate:
    """What one question asks. ``kind`` None stands for "object", ``colour`` None for any."""

    type: QuestionType
    kind: str | None = None
    colour: str | None = None
    count: int = 0
    relation: str = ""
    other: tuple[str | None, str | None] = (None, None)
    """(kind, colour) of the second object of a spatial question."""
    background: str = ""

    def _matching(self, reading: Reading, kind: str | None, colour: str | None) -> list[Seen]:
        return [
            thing
            for thing in reading.objects
            if thing.kind is not None
            and kind in (None, thing.kind)
            and colour in (None, thing.colour)
        ]

    def holds(self, reading: Reading) -> bool:
        """The answer: True is yes. Something unclear is no object, and spoils a total."""
        if self.type == "geometry":
            return reading.complete
        if self.type == "texture":
            return reading.even_colour
        if self.type == "coherence":
            return reading.even_background
        if self.type == "background":
            return reading.background == self.background
        if self.type == "total":
            return reading.unclear == 0 and len(reading.objects) == self.count
        if self.type == "attribute":
            alike = self._matching(reading, self.kind, None)
            return bool(alike) and all(thing.colour == self.colour for thing in alike)
        named = self._matching(reading, self.kind, self.colour)
        if self.type == "spatial":
            others = self._matching(reading, *self.other)
            return any(
                related((a.row, a.col), self.relation, (b.row, b.col))
                for a in named
                for b in others
                if a is not b
            )
        if self.type == "count":
            return len(named) == self.count
        return not named if self.type == "negative" else bool(named)


_COLOUR = f"({'|'.join(COLOUR_NAMES)})"
_KIND = f"({'|'.join(KINDS)}|object)"
_KINDS = f"({'|'.join(sorted(KIND_OF, key=len, reverse=True))}|objects?)"
_NUMBER = f"({'|'.join(NUMBERS.values())})"
_THING = f"(?:{_COLOUR} )?{_KIND}"
_PATTERNS: tuple[tuple[QuestionType, re.Pattern[str]], ...] = (
    ("total", re.compile(rf"(?:is|are) there exactly {_NUMBER} objects? in total")),
    ("count", re.compile(rf"(?:is|are) there exactly {_NUMBER} (?:{_COLOUR} )?{_KINDS}")),
    ("negative", re.compile(rf"is there no {_THING}")),
    ("existence", re.compile(rf"is there an? {_THING}")),
    ("background", re.compile(rf"is the background ({'|'.join(BACKGROUND_NAMES)})")),
    ("spatial", re.compile(rf"is the {_THING} ({'|'.join(RELATIONS)}) the {_THING}")),
    ("attribute", re.compile(rf"(?:is|are) the {_KINDS} {_COLOUR}")),
)
_VALUES = {word: value for value, word in NUMBERS.items()}
_QUALITY = {text.rstrip(" ?"): type_ for type_, text in QUALITY_TEXT.items()}


def _kind(word: str) -> str | None:
    return KIND_OF.get(word)


def _build(type_: QuestionType, parts: tuple[str, ...]) -> Predicate:
    if type_ == "total":
        return Predicate("total", count=_VALUES[parts[0]])
    if type_ == "count":
        return Predicate("count", _kind(parts[2]), parts[1], _VALUES[parts[0]])
    if type_ == "background":
        return Predicate("background", background=parts[0])
    if type_ == "attribute":
        return Predicate("attribute", _kind(parts[0]), parts[1])
    if type_ == "spatial":
        other = (_kind(parts[4]), parts[3])
        return Predicate("spatial", _kind(parts[1]), parts[0], relation=parts[2], other=other)
    return Predicate(type_, _kind(parts[1]), parts[0])


def parse_question(text: str) -> Predicate:
    """The predicate of a question. Case, spacing and the question mark do not matter.

    Raises ConfigError for a text outside the grammar.
    """
    words = " ".join(text.lower().replace("?", " ").split())
    if words in _QUALITY:
        return Predicate(_QUALITY[words])
    for type_, pattern in _PATTERNS:
        match = pattern.fullmatch(words)
        if match is not None:
            return _build(type_, match.groups())
    raise ConfigError(
        f"a question of the shapes world is one of its closed grammar, got {text!r}; "
        "ask for instance 'is there a red circle ?'"
    )
