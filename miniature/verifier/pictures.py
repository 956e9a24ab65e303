"""Pictures a verifier learns from: clean, corrupted, and wrong in the ways of a policy's picture.

A policy's pictures come out of a diffusion process and an autoencoder: cells that are between two
objects, off-colour or half there, soft edges, grain. The last family here imitates them from
renders alone; no picture of a policy is ever used.

Legend of shapes: B pictures, H = W = 48 pixels, c = 16 pixels of a cell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from alphagrpo.shapes.render import cell_slice, mask, render
from alphagrpo.shapes.specs import random_scene, sample_scene, sample_spec
from alphagrpo.shapes.world import (
    BACKGROUND_NAMES,
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
from miniature.corrupt import random_corruption

Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]

CLEAN_SHARE, CORRUPT_SHARE = 0.3, 0.3
"""The rest are imperfect, see :func:`draw_imperfectly`."""
MOST_OBJECTS = 8
"""In a training picture: twice what a prompt may ask for."""


def altered(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one thing changed: an object gone, added, moved, or another kind or colour."""
    objects = list(scene.objects)
    luck = rng.random()
    if luck < 0.25 or not objects:
        if scene.free_cells:
            cell = pick(rng, scene.free_cells)
            objects.append(SceneObject(pick(rng, KINDS), pick(rng, COLOUR_NAMES), *cell))
        return Scene(tuple(objects), scene.background)
    index = int(rng.random() * len(objects))
    item = objects.pop(index)
    if luck < 0.4:
        pass
    elif luck < 0.55:
        row, col = pick(rng, scene.free_cells)
        objects.append(item._replace(row=row, col=col))
    elif luck < 0.75:
        objects.append(item._replace(kind=pick(rng, KINDS)))
    elif luck < 0.95:
        objects.append(item._replace(colour=pick(rng, COLOUR_NAMES)))
    else:
        return Scene(scene.objects, pick(rng, BACKGROUND_NAMES))
    return Scene(tuple(objects), scene.background)


def _crowded(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one to four objects too many, mostly of the sorts that are there.

    Where a prompt asks for three a policy draws five at times, and a verifier that has seen four at
    most takes five for four.
    """
    objects = list(scene.objects)
    for cell in rng.permutation(len(scene.free_cells))[: pick(rng, (1, 1, 2, 2, 3, 4))]:
        model = pick(rng, scene.objects)
        luck = rng.random()
        kind = pick(rng, KINDS) if luck < 0.15 else model.kind
        colour = pick(rng, COLOUR_NAMES) if luck > 0.8 else model.colour
        objects.append(SceneObject(kind, colour, *scene.free_cells[int(cell)]))
    return Scene(tuple(objects), scene.background)


def training_scene(rng: np.random.Generator) -> Scene:
    """0 to 8 objects: mostly what some prompt asks for, often with one thing wrong or too many."""
    if rng.random() < 0.15:
        scene = random_scene(rng)
        return Scene((), scene.background) if rng.random() < 0.15 else scene
    scene = sample_scene(sample_spec(rng, "count" if rng.random() < 0.25 else None), rng)
    while rng.random() < 0.4:
        scene = altered(scene, rng)
    if scene.objects and rng.random() < 0.25:
        scene = _crowded(scene, rng)
    return scene if len(scene.objects) <= MOST_OBJECTS else training_scene(rng)


def _colour(name: str, rng: np.random.Generator) -> Floats:
    """A colour of the world, mostly a little off, at times on the way to another one."""
    rgb = np.array(COLOURS[name], np.float32) + rng.normal(0, 10, 3).astype(np.float32)
    if rng.random() < 0.2:
        other = np.array(COLOURS[pick(rng, COLOUR_NAMES)], np.float32)
        rgb += (other - rgb) * np.float32(rng.random() * 0.6)
    return rgb


def _field(size: int, knots: int, rng: np.random.Generator) -> Floats:
    """[size, size] a smooth random field of about unit variance at its ``knots`` per side."""
    coarse = Image.fromarray(rng.normal(0, 1, (knots, knots)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32)


def _alpha(kind: str, rng: np.random.Generator) -> Floats:
    """[c, c] a shape as a policy draws it: whole, faint, between kinds, moved, or with a hole."""
    alpha = mask(kind)
    luck = rng.random()
    if luck < 0.15:
        weight = rng.random() * 0.7
        alpha = alpha * (1 - weight) + mask(pick(rng, KINDS)) * weight
    elif luck < 0.3:
        alpha = alpha * (0.25 + 0.75 * rng.random())
    elif luck < 0.4:
        alpha = np.roll(alpha, tuple(rng.integers(-3, 4, 2)), axis=(0, 1))
    elif luck < 0.6:
        # Soft holes and bumps: a smooth random field pushes the coverage up and down.
        strength = (0.1 + 0.5 * rng.random()) * alpha.max()
        alpha = np.clip(alpha + _field(CELL, 4, rng) * strength, 0, 1)
    return alpha.astype(np.float32)


def _draw_cell(cell: Floats, item: SceneObject, rng: np.random.Generator) -> None:
    """Draw one object into ``cell`` [c, c, 3], in place, the way a policy might."""
    colour: Floats = np.broadcast_to(_colour(item.colour, rng), (CELL, CELL, 3))
    if rng.random() < 0.12:
        other = _colour(pick(rng, COLOUR_NAMES), rng)
        axis = np.linspace(-1, 1, CELL, dtype=np.float32)
        slope = rng.normal(0, 2, 2)
        share = 1 / (1 + np.exp(-4 * (slope[0] * axis[:, None] + slope[1] * axis + rng.normal())))
        colour = colour + share[..., None].astype(np.float32) * (other - colour)
    cell += _alpha(item.kind, rng)[..., None] * (colour - cell)


def _soften(picture: Floats, rng: np.random.Generator) -> Floats:
    """What an autoencoder does to a picture: soft edges, grain, ringing of neighbours."""
    image = Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
    luck = rng.random()
    if luck < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.random()) * 1.2))
    elif luck < 0.5:
        small = int(rng.integers(SIZE // 2, SIZE))
        image = image.resize((small, small), Image.Resampling.BICUBIC)
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    soft = np.asarray(image, np.float32)
    if rng.random() < 0.5:
        soft = soft + rng.normal(0, 1, soft.shape).astype(np.float32) * np.float32(
            rng.random() ** 2 * 25
        )
    return soft


def draw_imperfectly(scene: Scene, rng: np.random.Generator) -> Picture:
    """[48, 48, 3] a picture of ``scene`` with some of the flaws of a policy's."""
    picture = np.empty((SIZE, SIZE, 3), np.float32)
    picture[:] = np.array(BACKGROUNDS[scene.background], np.float32) + rng.normal(0, 6, 3)
    if rng.random() < 0.3:
        tint = rng.normal(0, 1, 3) * rng.random() * 35
        picture += _field(SIZE, int(rng.integers(2, 5)), rng)[..., None] * tint.astype(np.float32)
    for item in scene.objects:
        cell = picture[cell_slice(item.row, item.col)]
        if rng.random() < 0.6:
            _draw_cell(cell, item, rng)
        else:
            rgb = np.array(COLOURS[item.colour], np.float32)
            cell += mask(item.kind)[..., None] * (rgb - cell)
    if rng.random() < 0.1 and scene.free_cells:
        stray = SceneObject(pick(rng, KINDS), pick(rng, COLOUR_NAMES), *pick(rng, scene.free_cells))
        _draw_cell(picture[cell_slice(stray.row, stray.col)], stray, rng)
    if rng.random() < 0.15:
        other = render(altered(scene, rng)).astype(np.float32)
        picture += (other - picture) * np.float32(rng.random() * 0.6)
    return np.clip(np.rint(_soften(picture, rng)), 0, 255).astype(np.uint8)


def training_picture(rng: np.random.Generator) -> tuple[Scene, Picture]:
    """A scene and one picture of it, which may show something else."""
    scene = training_scene(rng)
    luck = rng.random()
    if luck < CLEAN_SHARE:
        return scene, render(scene, rng)
    if luck < CLEAN_SHARE + CORRUPT_SHARE and scene.objects:
        return scene, random_corruption(scene, rng)[1]
    return scene, draw_imperfectly(scene, rng)
