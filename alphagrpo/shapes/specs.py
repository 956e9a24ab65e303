"""Specifications: what a prompt asks for. Many scenes may satisfy one specification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from alphagrpo.errors import ConfigError
from alphagrpo.shapes.world import (
    BACKGROUND_NAMES,
    COLOUR_NAMES,
    GRID,
    KINDS,
    MAX_OBJECTS,
    Scene,
    SceneObject,
    check_word,
    pick,
)

Family = Literal["single", "count", "pair", "relation", "mixed"]

RELATIONS = ("left of", "right of", "above", "below")
_MIRROR = {"right of": "left of", "below": "above"}
FAMILY_MIX: Mapping[Family, float] = {
    "single": 0.2,
    "count": 0.25,
    "pair": 0.15,
    "relation": 0.3,
    "mixed": 0.1,
}
"""Share of each family among plain prompts."""
BACKGROUND_SHARE = 0.3
ABSENCE_SHARE = 0.15
"""A prompt names a background, or something absent, or (the rest) neither."""


class Item(NamedTuple):
    """``number`` objects of one colour and kind."""

    number: int
    colour: str
    kind: str


@dataclass(frozen=True, slots=True)
class Spec:
    """What a prompt asks for: exactly these objects and nothing else.

    Example: ``Spec((Item(1, "red", "circle"), Item(1, "blue", "square")), relation="left of")``
    """

    items: tuple[Item, ...]
    """One or two, of different (colour, kind); at most four objects in all."""
    relation: str | None = None
    """How the first item lies to the second: compares columns or rows only."""
    background: str | None = None
    """None where the prompt leaves it open."""
    absent: str | None = None
    """A kind or colour the prompt says is not there; it is not among the items."""

    def __post_init__(self) -> None:
        for item in self.items:
            check_word(item.colour, COLOUR_NAMES, "colour")
            check_word(item.kind, KINDS, "kind")
        if self.background is not None:
            check_word(self.background, BACKGROUND_NAMES, "background")
        if self.absent is not None:
            check_word(self.absent, (*KINDS, *COLOUR_NAMES), "absent kind or colour")
        if problem := self._problem():
            raise ConfigError(f"{problem}, got {self}; state what a picture can show")

    def _problem(self) -> str | None:
        if not 1 <= len(self.items) <= 2:
            return "a specification has one or two items"
        if len({item[1:] for item in self.items}) < len(self.items):
            return "two items differ in colour or kind"
        if min(item.number for item in self.items) < 1 or self.total > MAX_OBJECTS:
            return f"a picture holds 1 to {MAX_OBJECTS} objects"
        if self.relation is not None:
            if self.relation not in RELATIONS:
                return f"a relation is one of {', '.join(RELATIONS)}"
            if [item.number for item in self.items] != [1, 1]:
                return "a relation holds between two single objects"
        if self.absent in {word for item in self.items for word in item[1:]}:
            return "what is absent is not among the items"
        return None

    @property
    def total(self) -> int:
        """Number of objects in all."""
        return sum(item.number for item in self.items)

    @property
    def family(self) -> Family:
        """Which family of prompts this belongs to."""
        if self.relation is not None:
            return "relation"
        if len(self.items) == 1:
            return "single" if self.total == 1 else "count"
        return "pair" if self.total == 2 else "mixed"

    def normal(self) -> Spec:
        """The same demand in one form: "left of" and "above" only, unrelated items in order."""
        items, relation = self.items, self.relation
        if relation in _MIRROR:
            items, relation = items[::-1], _MIRROR[relation]
        elif relation is None:
            items = tuple(sorted(items))
        return Spec(items, relation, self.background, self.absent)

    def to_json(self) -> dict[str, Any]:
        """JSON values only, for ``Prompt.metadata["spec"]``; :meth:`from_json` is the inverse."""
        return {
            "items": [list(item) for item in self.items],
            "relation": self.relation,
            "background": self.background,
            "absent": self.absent,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Spec:
        """The specification of :meth:`to_json`. Raises ConfigError where no picture can show it."""
        items = tuple(Item(int(number), colour, kind) for number, colour, kind in value["items"])
        return cls(items, value.get("relation"), value.get("background"), value.get("absent"))


def related(first: tuple[int, int], relation: str, second: tuple[int, int]) -> bool:
    """Whether the cell ``first`` (row, col) lies ``relation`` to the cell ``second``."""
    if relation == "left of":
        return first[1] < second[1]
    if relation == "right of":
        return first[1] > second[1]
    if relation == "above":
        return first[0] < second[0]
    return first[0] > second[0]


def satisfies(scene: Scene, spec: Spec) -> bool:
    """Whether the scene is exactly what ``spec`` says: these objects, nothing else."""
    have = Counter((item.colour, item.kind) for item in scene.objects)
    if have != Counter({(item.colour, item.kind): item.number for item in spec.items}):
        return False
    if spec.background not in (None, scene.background):
        return False
    if spec.relation is None:
        return True
    cells = {(item.colour, item.kind): (item.row, item.col) for item in scene.objects}
    first, second = (cells[item[1:]] for item in spec.items)
    return related(first, spec.relation, second)


def sample_scene(spec: Spec, rng: np.random.Generator) -> Scene:
    """A random scene that satisfies ``spec``; a background left open is sampled too."""
    names = [(item.kind, item.colour) for item in spec.items for _ in range(item.number)]
    while True:
        cells = [divmod(int(i), GRID) for i in rng.permutation(GRID * GRID)[: len(names)]]
        if spec.relation is None or related(cells[0], spec.relation, cells[1]):
            break
    objects = tuple(SceneObject(*name, *cell) for name, cell in zip(names, cells, strict=True))
    return Scene(objects, spec.background or pick(rng, BACKGROUND_NAMES))


def random_scene(rng: np.random.Generator, max_objects: int = MAX_OBJECTS) -> Scene:
    """1 to ``max_objects`` objects of any kinds and colours, held-out combinations included."""
    count = 1 + int(rng.random() * max_objects)
    cells = [divmod(int(i), GRID) for i in rng.permutation(GRID * GRID)[:count]]
    objects = tuple(SceneObject(pick(rng, KINDS), pick(rng, COLOUR_NAMES), *c) for c in cells)
    return Scene(objects, pick(rng, BACKGROUND_NAMES))


def sample_items(family: Family, rng: np.random.Generator) -> tuple[Item, ...]:
    """Random items of a family of specifications."""
    first = Item(1, pick(rng, COLOUR_NAMES), pick(rng, KINDS))
    if family == "single":
        return (first,)
    if family == "count":
        return (first._replace(number=pick(rng, (2, 3, 4))),)
    second = first
    while second[1:] == first[1:]:
        second = Item(1, pick(rng, COLOUR_NAMES), pick(rng, KINDS))
    if family == "mixed":
        first = first._replace(number=pick(rng, (2, 3)))
        return (first, second) if rng.random() < 0.5 else (second, first)
    return (first, second)


def sample_extras(
    items: tuple[Item, ...], rng: np.random.Generator
) -> tuple[str | None, str | None]:
    """A background to name, or something absent to name, or neither: (background, absent)."""
    luck = rng.random()
    if luck < BACKGROUND_SHARE:
        return pick(rng, BACKGROUND_NAMES), None
    if luck < BACKGROUND_SHARE + ABSENCE_SHARE:
        used = {word for item in items for word in item[1:]}
        words = KINDS if rng.random() < 0.5 else COLOUR_NAMES
        return None, pick(rng, [word for word in words if word not in used])
    return None, None


def sample_family(mix: Mapping[Family, float], rng: np.random.Generator) -> Family:
    """A family, sampled by its share of ``mix``."""
    luck = rng.random() * sum(mix.values())
    for family, share in mix.items():
        luck -= share
        if luck < 0:
            return family
    return family


def sample_spec(rng: np.random.Generator, family: Family | None = None) -> Spec:
    """A random specification, from the plain mix unless a family is named."""
    family = family or sample_family(FAMILY_MIX, rng)
    items = sample_items(family, rng)
    relation = pick(rng, RELATIONS) if family == "relation" else None
    background, absent = sample_extras(items, rng)
    return Spec(items, relation, background, absent)
