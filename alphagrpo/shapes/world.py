"""What exists in the miniature world: kinds, colours, backgrounds, the lattice, and scenes.

A scene is at most one object per cell of a 3 x 3 lattice. One cell is 16 pixels, which is BAGEL's
own size of a latent token (8x autoencoder, latent patch 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from alphagrpo.errors import ConfigError

GRID = 3
"""Cells per side."""
CELL = 16
"""Pixels per side of a cell."""
SIZE = GRID * CELL
"""Pixels per side of a picture."""
MAX_OBJECTS = 4

KINDS = ("circle", "square", "triangle", "cross")
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (208, 32, 44),
    "green": (46, 166, 72),
    "blue": (38, 92, 226),
    "yellow": (250, 220, 44),
    "purple": (142, 58, 192),
    "orange": (246, 132, 24),
}
BACKGROUNDS: Mapping[str, tuple[int, int, int]] = {
    "black": (14, 14, 18),
    "gray": (138, 138, 142),
    "white": (246, 246, 244),
}
COLOUR_NAMES = tuple(COLOURS)
BACKGROUND_NAMES = tuple(BACKGROUNDS)

T = TypeVar("T")


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of ``options``, each as likely; several times quicker than ``rng.choice``."""
    return options[int(rng.random() * len(options))]


class SceneObject(NamedTuple):
    """One object and its cell; row 0 is the top, col 0 the left."""

    kind: str
    colour: str
    row: int
    col: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything a picture shows.

    Example: ``Scene((SceneObject("circle", "red", 0, 2),), "black")``
    """

    objects: tuple[SceneObject, ...]
    """Sorted by cell, row by row; at most one per cell."""
    background: str

    def __post_init__(self) -> None:
        check_word(self.background, BACKGROUND_NAMES, "background")
        for item in self.objects:
            check_word(item.kind, KINDS, "kind")
            check_word(item.colour, COLOUR_NAMES, "colour")
            if not (0 <= item.row < GRID and 0 <= item.col < GRID):
                raise ConfigError(f"a cell lies in a {GRID} x {GRID} lattice, got {item}; use 0-2")
        cells = {(item.row, item.col) for item in self.objects}
        if len(cells) < len(self.objects):
            raise ConfigError(f"a cell holds one object, got {self.objects}; move one of them")
        ordered = tuple(sorted(self.objects, key=lambda item: (item.row, item.col)))
        object.__setattr__(self, "objects", ordered)

    @property
    def free_cells(self) -> list[tuple[int, int]]:
        """Cells without an object, row by row."""
        taken = {(item.row, item.col) for item in self.objects}
        return [divmod(i, GRID) for i in range(GRID * GRID) if divmod(i, GRID) not in taken]


def check_word(word: str, known: Sequence[str], what: str) -> None:
    """Raise ConfigError unless ``word`` is one of the world's ``known`` words."""
    if word not in known:
        raise ConfigError(f"unknown {what} {word!r}; the world has {', '.join(known)}")
