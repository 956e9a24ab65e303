"""The oracle: reads a picture from its pixels alone and answers any question of the grammar.

It is the held-out judge of this world: it never rewards and never labels a policy's pictures for
training. Each cell is compared with the templates of all kinds, moved by up to one pixel; the
background is the median of the pixels that no template covers.

Legend of shapes: B picture, S = 9 cells, P = 256 pixels of a cell, T = 36 templates (4 kinds x 9
shifts), c = 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from alphagrpo.errors import BadImage
from alphagrpo.shapes.grammar import Reading, Seen, parse_question
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.render import masks
from alphagrpo.shapes.specs import Spec
from alphagrpo.shapes.world import (
    BACKGROUND_NAMES,
    BACKGROUNDS,
    CELL,
    COLOUR_NAMES,
    COLOURS,
    GRID,
    KINDS,
    SIZE,
)

Floats = NDArray[np.float32]

PRESENT = 36.0
"""RGB distance from the cell's own ground, over 4 x 4 pixels, from which a thing is there."""
FLOODED = 92.0
"""RGB distance of a cell's border from the background from which the whole cell is a thing."""
KIND_FIT, KIND_MARGIN = 0.74, 0.035
"""Least share of the cell's energy the best template explains, and its lead over other kinds."""
COLOUR_RANGE, COLOUR_MARGIN = 62.0, 12.0
"""Largest RGB distance to a colour of the world, and its lead over other colours."""
BACKGROUND_RANGE = 60.0
LEAK, HOLE, OPACITY = 0.14, 0.10, 0.68
"""A shape is complete with at most this much beside it and missing, at least this opaque."""
UNEVEN_RANGE, UNEVEN_SHARE = 42.0, 0.12
"""An object is uneven where more than this share of it lies further than this from its colour."""
GROUND_RANGE, GROUND_SHARE, GROUND_SLOPE, GROUND_GRAIN = 34.0, 0.08, 21.0, 15.0
"""The same of the empty cells; largest distance of a cell's ground from the background; noise."""


@dataclass(frozen=True, slots=True)
class Templates:
    """The shapes the oracle looks for; ``kind`` tells which row is of which kind."""

    alpha: Floats
    """[T, P] coverage."""
    kind: NDArray[np.int64]
    """[T] index into ``KINDS``."""
    norm: Floats
    """[T] sum of squared coverage."""
    inner: NDArray[np.bool_]
    """[T, P] pixels all of whose neighbours are wholly covered: free of the edge's blending."""
    ring: NDArray[np.bool_]
    """[P] pixels of a cell that no unmoved shape touches."""


@cache
def templates() -> Templates:
    """All templates, computed once."""
    rows, kinds = [], []
    for index, alpha in enumerate(masks()):
        for dy in (0, -1, 1):
            for dx in (0, -1, 1):
                rows.append(np.roll(alpha, (dy, dx), axis=(0, 1)).ravel())
                kinds.append(index)
    stacked = np.stack(rows).astype(np.float32)
    ring = masks().max(axis=0).ravel() < 0.01
    inner = np.stack([_eroded(row.reshape(CELL, CELL) > 0.97).ravel() for row in stacked])
    return Templates(stacked, np.array(kinds), (stacked**2).sum(axis=1), inner, ring)


def _eroded(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[c, c] the pixels of ``area`` whose four neighbours are in it too."""
    padded = np.pad(area, 1)
    beside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(area & beside)


_PALETTE = np.array(list(COLOURS.values()), np.float32)
_GROUNDS = np.array(list(BACKGROUNDS.values()), np.float32)


def _cells(pictures: NDArray[np.uint8]) -> Floats:
    """[B, S, P, 3] the cells of pictures [B, 48, 48, 3], row by row."""
    split = pictures.reshape(len(pictures), GRID, CELL, GRID, CELL, 3).swapaxes(2, 3)
    return split.reshape(len(pictures), GRID * GRID, CELL * CELL, 3).astype(np.float32)


def _boldest(diff: Floats) -> Floats:
    """[B, S] largest RGB length of a 4 x 4 average (every 2 pixels) of diff [B, S, P, 3]."""
    grid = diff.reshape(*diff.shape[:2], CELL, CELL, 3)
    pairs = grid.reshape(*diff.shape[:2], CELL // 2, 2, CELL // 2, 2, 3).mean(axis=(3, 5))
    rows = (pairs[:, :, 1:] + pairs[:, :, :-1]) / 2
    blocks = (rows[:, :, :, 1:] + rows[:, :, :, :-1]) / 2
    return np.linalg.norm(blocks, axis=-1).max(axis=(2, 3))


def _nearest(rgb: Floats, palette: Floats, reach: float, margin: float) -> int | None:
    """Index of the palette's colour nearest to rgb [3], or None where none is near or two are."""
    distance = np.linalg.norm(palette - rgb, axis=1)
    first, second = np.argsort(distance)[:2]
    if distance[first] > reach or distance[second] - distance[first] < margin:
        return None
    return int(first)


def _opacity(colour: Floats, ground: Floats) -> float:
    """How opaque a thing is: its contrast over that of the world's colour in its direction."""
    contrast, options = colour - ground, _PALETTE - ground
    lengths = np.linalg.norm(options, axis=1)
    size = float(np.linalg.norm(contrast)) + 1e-6
    best = int(np.argmax(options @ contrast / (lengths * size)))
    return size / float(lengths[best])


@dataclass(frozen=True, slots=True)
class _Look:
    """One occupied cell: what it is and whether it is drawn well."""

    kind: str | None
    colour: str | None
    complete: bool
    even: bool


def _look(cell: Floats, diff: Floats, fits: Floats, ground: Floats, grain: float) -> _Look:
    """Judge one occupied cell [P, 3]; ``diff`` [P, 3] is the cell less its own ground."""
    shapes = templates()
    best = int(np.argmax(fits))
    kind = int(shapes.kind[best])
    rival = float(fits[shapes.kind != kind].max())
    fit = float(fits[best])
    alpha = shapes.alpha[best]
    core = alpha > 0.97
    length = np.linalg.norm(diff, axis=1)
    strength = float(np.median(length[core]))
    body = core & (length > max(0.4 * strength, 0.75 * PRESENT))
    if not body.any():
        body = core
    colour = np.median(cell[body], axis=0)
    outside = np.clip((length - 2.5 * grain - 10) / max(strength, PRESENT), 0, 1)[alpha < 0.01]
    leak, hole = outside.sum() / alpha.sum(), 1 - body.sum() / core.sum()
    inner = shapes.inner[best] & body
    far = np.linalg.norm(cell[inner if inner.any() else body] - colour, axis=1) > UNEVEN_RANGE
    known = fit >= KIND_FIT and fit - rival >= KIND_MARGIN
    name = _nearest(colour, _PALETTE, COLOUR_RANGE, COLOUR_MARGIN)
    solid = _opacity(colour, ground) >= OPACITY
    return _Look(
        KINDS[kind] if known else None,
        None if name is None else COLOUR_NAMES[name],
        bool(known and leak <= LEAK and hole <= HOLE and solid),
        bool(far.mean() <= UNEVEN_SHARE),
    )


def _even_ground(
    cells: Floats, empty: NDArray[np.bool_], rings: Floats, ground: Floats, grain: float
) -> bool:
    """Whether the background is one colour: cells [S, P, 3], their own grounds ``rings`` [S, 3]."""
    if grain > GROUND_GRAIN or np.linalg.norm(rings - ground, axis=1).max() > GROUND_SLOPE:
        return False
    if not empty.any():
        return True
    far = np.linalg.norm(cells[empty] - ground, axis=-1) > GROUND_RANGE
    return bool(far.mean() <= GROUND_SHARE)


def _fits(diff: Floats, grain: Floats) -> Floats:
    """[B, S, T] share of a cell's silhouette each template explains, from diff [B, S, P, 3].

    The silhouette is the distance from the cell's ground, saturated: a shape of two colours has
    the silhouette of its kind, a ghost the same as a solid.
    """
    shapes = templates()
    length = np.linalg.norm(diff, axis=-1) - 2.0 * grain[:, None, None]
    strength = np.maximum(np.quantile(length, 0.9, axis=-1, keepdims=True), 1.0)
    silhouette = np.clip(length / (0.85 * strength), 0, 1)
    explained = (silhouette @ shapes.alpha.T) ** 2 / shapes.norm
    return explained / np.maximum((silhouette**2).sum(axis=-1, keepdims=True), 1.0)


def read_many(pictures: NDArray[np.uint8]) -> list[Reading]:
    """What is seen of pictures [B, 48, 48, 3] uint8. Raises BadImage for any other shape."""
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or pictures.shape[1:] != (SIZE, SIZE, 3) or pictures.dtype != np.uint8:
        raise BadImage(
            f"the oracle reads [B, {SIZE}, {SIZE}, 3] uint8, got {pictures.shape} of "
            f"{pictures.dtype}; resize or convert the picture"
        )
    shapes, cells = templates(), _cells(pictures)
    rings = np.median(cells[:, :, shapes.ring], axis=2)  # [B, S, 3]
    grounds = np.median(cells[:, :, shapes.ring].reshape(len(cells), -1, 3), axis=1)  # [B, 3]
    diff = cells - rings[:, :, None]
    # Grain: the noise of one channel, from the median deviation, which a few stray pixels leave.
    grain = 1.48 * np.median(np.abs(diff[:, :, shapes.ring]), axis=(1, 2, 3))  # [B]
    flooded = np.linalg.norm(rings - grounds[:, None], axis=-1) > FLOODED
    there = (_boldest(diff) > PRESENT + 0.9 * grain[:, None]) | flooded
    fits = _fits(diff, grain)
    return [
        _reading(cells[b], diff[b], fits[b], there[b], rings[b], grounds[b], float(grain[b]))
        for b in range(len(cells))
    ]


def _reading(
    cells: Floats,
    diff: Floats,
    fits: Floats,
    there: NDArray[np.bool_],
    rings: Floats,
    ground: Floats,
    grain: float,
) -> Reading:
    """The reading of one picture from what is known of its nine cells."""
    looks = {i: _look(cells[i], diff[i], fits[i], rings[i], grain) for i in np.flatnonzero(there)}
    objects = tuple(
        Seen(look.kind, look.colour, *divmod(int(i), GRID)) for i, look in looks.items()
    )
    name = _nearest(ground, _GROUNDS, BACKGROUND_RANGE, 0.0)
    return Reading(
        objects,
        None if name is None else BACKGROUND_NAMES[name],
        all(look.complete for look in looks.values()),
        all(look.even for look in looks.values()),
        _even_ground(cells, ~there, rings, ground, grain),
    )


def read(picture: NDArray[np.uint8]) -> Reading:
    """What is seen of one picture [48, 48, 3] uint8."""
    return read_many(np.asarray(picture)[None])[0]


def answer(question: str, reading: Reading) -> bool:
    """Yes or no to a question of the grammar. Raises ConfigError for any other text."""
    return parse_question(question).holds(reading)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the oracle says of one picture of one specification."""

    answers: dict[str, bool]
    """Reference question id to answer."""
    all_right: bool
    """Every semantic question but the total is answered yes: all that the prompt names is there."""
    strict: bool
    """All right, and the total too: nothing else is there."""
    extra: bool
    """There are more things than the prompt names, unclear ones included."""
    clean: bool
    """Every quality question is answered yes."""


def judge(spec: Spec, reading: Reading) -> Judgement:
    """Answer the reference questions of ``spec`` about what was read of a picture."""
    questions = reference_questions(spec)
    answers = {q.id: answer(q.text, reading) for q in questions}
    demands = {
        q.id for q in questions if q.kind == "semantic" and parse_question(q.text).type != "total"
    }
    quality = [answers[q.id] for q in questions if q.kind == "quality"]
    right = all(answers[name] for name in demands)
    strict = right and all(answers[q.id] for q in questions if q.kind == "semantic")
    extra = len(reading.objects) > spec.total
    return Judgement(answers, right, strict, extra, all(quality))


def judge_many(specs: Sequence[Spec], pictures: NDArray[np.uint8]) -> list[Judgement]:
    """One judgement per specification and picture [B, 48, 48, 3]."""
    readings = read_many(pictures)
    return [judge(spec, reading) for spec, reading in zip(specs, readings, strict=True)]
