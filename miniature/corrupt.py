"""Corruptions: flawed pictures of a scene, for quality questions and for training a verifier.

Each knows which question types it makes false, and takes a severity in [0, 1]: at 1 the flaw is
plain to see, near 0 the picture is nearly clean (the oracle decides from the pixels).

Legend of shapes: H = W = 48 pixels, c = 16 pixels of a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from alphagrpo.errors import ConfigError
from alphagrpo.shapes.grammar import QuestionType
from alphagrpo.shapes.render import cell_slice, mask, render
from alphagrpo.shapes.world import (
    BACKGROUNDS,
    CELL,
    COLOUR_NAMES,
    COLOURS,
    KINDS,
    SIZE,
    Scene,
    SceneObject,
    pick,
)

Floats = NDArray[np.float32]
_OTHERS_SHARE = 0.3
"""How often a flaw of one object is shared by each of the others."""


def _rgb(name: str) -> Floats:
    return np.array(COLOURS.get(name) or BACKGROUNDS[name], np.float32)


def _shifted(image: Floats, rows: int, cols: int, fill: Floats | float) -> Floats:
    """``image`` moved down by ``rows`` and right by ``cols``; what comes in is ``fill``."""
    height, width = image.shape[:2]
    moved = np.empty_like(image)
    moved[:] = fill
    to_r, to_c = (
        slice(max(rows, 0), height + min(rows, 0)),
        slice(max(cols, 0), width + min(cols, 0)),
    )
    from_r = slice(max(-rows, 0), height + min(-rows, 0))
    from_c = slice(max(-cols, 0), width + min(-cols, 0))
    moved[to_r, to_c] = image[from_r, from_c]
    return moved


def _direction(rng: np.random.Generator, length: float) -> tuple[int, int]:
    """A random whole-pixel step of about ``length`` pixels."""
    angle = rng.random() * 2 * np.pi
    return round(length * np.sin(angle)), round(length * np.cos(angle))


def _half_plane(rng: np.random.Generator, share: float, alpha: Floats) -> NDArray[np.bool_]:
    """[c, c] a random side of the cell that holds ``share`` of the shape ``alpha``."""
    angle = rng.random() * 2 * np.pi
    axis = np.arange(CELL) - (CELL - 1) / 2
    height = np.sin(angle) * axis[:, None] + np.cos(angle) * axis[None, :]
    edge = np.quantile(height[alpha > 0.5], 1 - share)
    return np.asarray(height > edge)


def _blur(scene: Scene, severity: float, rng: np.random.Generator) -> Floats:
    image = Image.fromarray(render(scene)).filter(ImageFilter.GaussianBlur(float(3.2 * severity)))
    return np.asarray(image, np.float32)


def _noise(scene: Scene, severity: float, rng: np.random.Generator) -> Floats:
    grain = rng.standard_normal((SIZE, SIZE, 3)).astype(np.float32)
    return render(scene) + 42 * severity * grain


def _uneven(scene: Scene, severity: float, rng: np.random.Generator) -> Floats:
    """A slope or a few soft blotches of brightness under the objects."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1) - 0.5
    if rng.random() < 0.4:
        angle = rng.random() * 2 * np.pi
        field = 0.5 + 0.8 * (np.sin(angle) * y + np.cos(angle) * x)
    else:
        field = np.zeros((SIZE, SIZE))
        for _ in range(3):
            cy, cx, width = rng.random() - 0.5, rng.random() - 0.5, 0.22 + 0.12 * rng.random()
            field += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))
    tint = 0.7 + 0.3 * rng.random(3)
    sign = {"black": 1.0, "white": -1.0}.get(scene.background, pick(rng, (1.0, -1.0)))
    ground = _rgb(scene.background) + sign * 60 * severity * np.clip(field, 0, 1)[..., None] * tint
    picture = ground.astype(np.float32)
    for item in scene.objects:
        cell = picture[cell_slice(item.row, item.col)]
        cell += mask(item.kind)[..., None] * (_rgb(item.colour) - cell)
    return picture


def _double(scene: Scene, severity: float, rng: np.random.Generator) -> Floats:
    """The picture laid over itself at an offset, as when two modes are averaged."""
    picture = render(scene).astype(np.float32)
    rows, cols = _direction(rng, 1.5 + 4.5 * severity)
    weight = 0.2 + 0.25 * severity
    return picture * (1 - weight) + weight * _shifted(picture, rows, cols, _rgb(scene.background))


def _cut(item: SceneObject, ground: str, severity: float, rng: np.random.Generator) -> Floats:
    alpha = mask(item.kind)
    lost = _half_plane(rng, 0.05 + 0.5 * severity, alpha)
    return _tile(np.where(lost, 0, alpha).astype(np.float32), _rgb(item.colour), ground)


def _patchy(item: SceneObject, ground: str, severity: float, rng: np.random.Generator) -> Floats:
    """Part of the shape in another colour: one side of it, or blocks."""
    other = _rgb(pick(rng, [name for name in COLOUR_NAMES if name != item.colour]))
    share = 0.05 + 0.4 * severity
    if rng.random() < 0.5:
        patch = _half_plane(rng, share, mask(item.kind))
    else:
        blocks = np.zeros(16, np.bool_)
        blocks[rng.permutation(16)[: max(1, round(16 * share))]] = True
        patch = blocks.reshape(4, 4).repeat(4, axis=0).repeat(4, axis=1)
    colour = np.where(patch[..., None], other, _rgb(item.colour))
    return _tile(mask(item.kind), colour.astype(np.float32), ground)


def _ghost(item: SceneObject, ground: str, severity: float, rng: np.random.Generator) -> Floats:
    return _tile(mask(item.kind) * (1 - 0.58 * severity), _rgb(item.colour), ground)


def _smear(item: SceneObject, ground: str, severity: float, rng: np.random.Generator) -> Floats:
    """A trail of the shape in one direction, fading."""
    rows, cols = _direction(rng, 2 + 7 * severity)
    steps = np.linspace(0, 1, 10)
    trail = [_shifted(mask(item.kind), round(rows * s), round(cols * s), 0.0) for s in steps]
    return _tile(np.mean(trail, axis=0), _rgb(item.colour), ground)


def _shift(item: SceneObject, ground: str, severity: float, rng: np.random.Generator) -> Floats:
    """The shape slid out of its cell and cut off at the cell's border."""
    rows, cols = _direction(rng, 1.5 + 6.5 * severity)
    return _tile(_shifted(mask(item.kind), rows, cols, 0.0), _rgb(item.colour), ground)


def _mix(item: SceneObject, ground: str, severity: float, rng: np.random.Generator) -> Floats:
    """Two objects in one cell, averaged: kinds and colours of both shine through."""
    alike = {"circle": "square", "square": "circle"}.get(item.kind, item.kind)
    kind = pick(rng, [kind for kind in KINDS if kind not in (item.kind, alike)])
    colour = pick(rng, [name for name in COLOUR_NAMES if name != item.colour])
    own = _tile(mask(item.kind), _rgb(item.colour), ground)
    weight = 0.1 + 0.4 * severity
    return (1 - weight) * own + weight * _tile(mask(kind), _rgb(colour), ground)


def _tile(alpha: Floats, colour: Floats, ground: str) -> Floats:
    """[c, c, 3] a shape of opacity ``alpha`` [c, c] on the background named ``ground``."""
    base = _rgb(ground)
    return (base + alpha[..., None] * (colour - base)).astype(np.float32)


PictureFlaw = Callable[[Scene, float, np.random.Generator], Floats]
ObjectFlaw = Callable[[SceneObject, str, float, np.random.Generator], Floats]


class Corruption(NamedTuple):
    """One way to spoil a picture, and which question types it makes false."""

    spoils: tuple[QuestionType, ...]
    picture: PictureFlaw | None = None
    item: ObjectFlaw | None = None


CORRUPTIONS: Mapping[str, Corruption] = {
    "blur": Corruption(("geometry",), picture=_blur),
    "cut": Corruption(("geometry",), item=_cut),
    "ghost": Corruption(("geometry",), item=_ghost),
    "smear": Corruption(("geometry",), item=_smear),
    "shift": Corruption(("geometry",), item=_shift),
    "double": Corruption(("geometry",), picture=_double),
    "mix": Corruption(("texture",), item=_mix),
    "patchy": Corruption(("texture",), item=_patchy),
    "noise": Corruption(("texture", "coherence"), picture=_noise),
    "uneven": Corruption(("coherence",), picture=_uneven),
}


def corrupt(
    scene: Scene, name: str, severity: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """[48, 48, 3] a picture of ``scene`` with the flaw ``name``; flaws of objects hit one or more.

    Raises ConfigError for an unknown name or a severity outside [0, 1].
    """
    if name not in CORRUPTIONS or not 0 <= severity <= 1:
        raise ConfigError(
            f"a corruption is one of {', '.join(CORRUPTIONS)} with a severity in [0, 1], "
            f"got {name!r} at {severity}; correct it"
        )
    flaw = CORRUPTIONS[name]
    picture = render(scene).astype(np.float32)
    if flaw.picture is not None:
        picture = flaw.picture(scene, severity, rng)
    elif flaw.item is not None:
        first = int(rng.random() * len(scene.objects))
        for index, item in enumerate(scene.objects):
            if index == first or rng.random() < _OTHERS_SHARE:
                tile = flaw.item(item, scene.background, severity, rng)
                picture[cell_slice(item.row, item.col)] = tile
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def random_corruption(scene: Scene, rng: np.random.Generator) -> tuple[str, NDArray[np.uint8]]:
    """A random flaw at a random severity: its name and the picture."""
    name = pick(rng, tuple(CORRUPTIONS))
    return name, corrupt(scene, name, float(rng.random()), rng)
