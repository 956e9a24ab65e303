"""The renderer: a scene to pixels, by copying ready-made 16 x 16 tiles.

Legend of shapes: H = W = 48 pixels, c = 16 pixels of a cell.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from alphagrpo.shapes.world import BACKGROUNDS, CELL, COLOURS, KINDS, SIZE, Scene

_SUPERSAMPLING = 8
_SHADE = 8
"""Largest change of a colour channel between two pictures with varied shades."""


def _inside(kind: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points, in pixels from the cell's centre with y down, lie in the shape."""
    if kind == "circle":
        return x * x + y * y <= 6.4**2
    if kind == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 5.75
    if kind == "triangle":
        return (y <= 5.8) & (np.abs(x) <= (y + 6.4) * 6.6 / 12.2)
    arm, thickness = 6.4, 2.2
    across = (np.abs(x) <= arm) & (np.abs(y) <= thickness)
    return across | ((np.abs(y) <= arm) & (np.abs(x) <= thickness))


@cache
def mask(kind: str) -> NDArray[np.float32]:
    """[c, c] share of each pixel that the shape covers; antialiased, do not write to it."""
    n = CELL * _SUPERSAMPLING
    axis = (np.arange(n) + 0.5) / _SUPERSAMPLING - CELL / 2
    inside = _inside(kind, axis[None, :], axis[:, None])
    blocks = inside.reshape(CELL, _SUPERSAMPLING, CELL, _SUPERSAMPLING)
    return blocks.mean(axis=(1, 3)).astype(np.float32)


@cache
def masks() -> NDArray[np.float32]:
    """[4, c, c] the masks of all kinds, in the order of ``KINDS``."""
    return np.stack([mask(kind) for kind in KINDS])


def _blend(
    kind: str, colour: NDArray[np.float32], background: NDArray[np.float32]
) -> NDArray[np.uint8]:
    alpha = mask(kind)[..., None]
    return np.rint(background * (1 - alpha) + colour * alpha).astype(np.uint8)


@cache
def _tile(kind: str, colour: str, background: str) -> NDArray[np.uint8]:
    rgb = np.array(COLOURS[colour], np.float32), np.array(BACKGROUNDS[background], np.float32)
    return _blend(kind, *rgb)


def cell_slice(row: int, col: int) -> tuple[slice, slice]:
    """The pixels of a cell."""
    return slice(row * CELL, (row + 1) * CELL), slice(col * CELL, (col + 1) * CELL)


def render(scene: Scene, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
    """[48, 48, 3] the picture of a scene. With ``rng`` the shades of colours vary a little."""
    picture = np.empty((SIZE, SIZE, 3), np.uint8)
    ground = np.array(BACKGROUNDS[scene.background], np.float32)
    if rng is not None:
        ground = np.clip(ground + rng.integers(-_SHADE, _SHADE + 1, 3), 0, 255).astype(np.float32)
    picture[:] = np.rint(ground).astype(np.uint8)
    for item in scene.objects:
        if rng is None:
            tile = _tile(item.kind, item.colour, scene.background)
        else:
            shade = np.array(COLOURS[item.colour]) + rng.integers(-_SHADE, _SHADE + 1, 3)
            tile = _blend(item.kind, np.clip(shade, 0, 255).astype(np.float32), ground)
        picture[cell_slice(item.row, item.col)] = tile
    return picture


def render_many(scenes: list[Scene]) -> NDArray[np.uint8]:
    """[B, 48, 48, 3] the pictures of many scenes."""
    return np.stack([render(scene) for scene in scenes])
