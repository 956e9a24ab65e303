"""Edits, differences between two pictures, and what is wrong with a picture of a prompt.

The texts are of the same small vocabulary as the prompts: they are the comparison and edit skills
of the miniature policy, and what a reflection on its own picture is measured against.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from alphagrpo.shapes.grammar import Reading, Seen
from alphagrpo.shapes.language import NUMBERS, article, noun_phrase, plural
from alphagrpo.shapes.specs import Item, Spec, related, sample_scene
from alphagrpo.shapes.world import (
    BACKGROUND_NAMES,
    COLOUR_NAMES,
    KINDS,
    MAX_OBJECTS,
    Scene,
    SceneObject,
    pick,
)

NOTHING_WRONG = "nothing is wrong"
NO_CHANGE = "nothing changed"
EditName = Literal["recolour", "reshape", "remove", "add", "background"]
DefectName = Literal[
    "colour", "kind", "missing", "extra", "relation", "background", "unclear", "quality"
]

_Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Edit:
    """An instruction and what it turns a scene into."""

    name: EditName
    instruction: str
    scene: Scene
    """The scene afterwards. An added object may as well lie in any other free cell."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong with a picture, in words, and the edit that would fix it."""

    name: DefectName
    text: str
    fix: str


def _named(scene: Scene, item: SceneObject) -> str:
    """``the circle`` where there is one circle only, else ``the red circle``."""
    alone = sum(other.kind == item.kind for other in scene.objects) == 1
    return f"the {item.kind}" if alone else f"the {item.colour} {item.kind}"


def _unambiguous(scene: Scene) -> list[SceneObject]:
    have = Counter((item.kind, item.colour) for item in scene.objects)
    return [item for item in scene.objects if have[item.kind, item.colour] == 1]


def _replaced(scene: Scene, old: SceneObject, new: SceneObject) -> Scene:
    objects = tuple(new if item == old else item for item in scene.objects)
    return Scene(objects, scene.background)


def _options(scene: Scene) -> list[EditName]:
    options: list[EditName] = ["background"]
    if _unambiguous(scene):
        options += ["recolour", "reshape"]
        if len(scene.objects) > 1:
            options.append("remove")
    if len(scene.objects) < MAX_OBJECTS:
        options.append("add")
    return options


def edit(scene: Scene, rng: np.random.Generator, name: EditName | None = None) -> Edit:
    """A random edit that makes sense of ``scene``; ``name`` chooses the sort where it does."""
    options = _options(scene)
    name = name if name in options else pick(rng, options)
    if name == "background":
        ground = pick(rng, [name for name in BACKGROUND_NAMES if name != scene.background])
        return Edit(name, f"make the background {ground}", Scene(scene.objects, ground))
    if name == "add":
        kind, colour, cell = pick(rng, KINDS), pick(rng, COLOUR_NAMES), pick(rng, scene.free_cells)
        after = Scene((*scene.objects, SceneObject(kind, colour, *cell)), scene.background)
        return Edit(name, f"add {noun_phrase(Item(1, colour, kind))}", after)
    target = pick(rng, _unambiguous(scene))
    called = _named(scene, target)
    if name == "remove":
        rest = tuple(item for item in scene.objects if item != target)
        return Edit(name, f"remove {called}", Scene(rest, scene.background))
    if name == "recolour":
        colour = pick(rng, [name for name in COLOUR_NAMES if name != target.colour])
        after = _replaced(scene, target, target._replace(colour=colour))
        return Edit(name, f"make {called} {colour}", after)
    kind = pick(rng, [name for name in KINDS if name != target.kind])
    after = _replaced(scene, target, target._replace(kind=kind))
    return Edit("reshape", f"make {called} {article(kind)} {kind}", after)


@dataclass(frozen=True, slots=True)
class EditOutcome:
    """What the oracle says of an edited picture."""

    followed: bool
    """The change has happened."""
    kept: bool
    """Everything else is as before."""


def edit_outcome(before: Scene, change: Edit, reading: Reading) -> EditOutcome:
    """Compare what is read of an edited picture with the edit."""
    old, new = _cells_of(before), _cells_of(change.scene)
    got = {(thing.row, thing.col): (thing.kind, thing.colour) for thing in reading.objects}
    touched = {cell for cell in old.keys() | new.keys() if old.get(cell) != new.get(cell)}
    if change.name == "add":
        (cell,) = touched
        arrived = [spot for spot in got.keys() - old.keys() if got[spot] == new[cell]]
        followed, touched = len(arrived) == 1, set(arrived)
    else:
        followed = all(got.get(cell) == new.get(cell) for cell in touched)
    if change.name == "background":
        followed = reading.background == change.scene.background
    others = (old.keys() | got.keys()) - touched
    kept = all(got.get(cell) == old.get(cell) for cell in others)
    if change.name != "background":
        kept = kept and reading.background == before.background
    return EditOutcome(followed, kept)


def _cells_of(scene: Scene) -> dict[tuple[int, int], tuple[str | None, str | None]]:
    return {(item.row, item.col): (item.kind, item.colour) for item in scene.objects}


def difference(before: Scene, after: Scene) -> str:
    """What changed from one scene to the other, cell by cell; ``nothing changed`` where nothing."""
    old = {(item.row, item.col): item for item in before.objects}
    new = {(item.row, item.col): item for item in after.objects}
    parts = []
    for cell in sorted(old.keys() | new.keys()):
        was, now = old.get(cell), new.get(cell)
        if was == now:
            continue
        if was is None and now is not None:
            parts.append(f"there is {noun_phrase(Item(1, now.colour, now.kind))} more")
        elif now is None and was is not None:
            parts.append(f"the {was.colour} {was.kind} is gone")
        elif was is not None and now is not None:
            parts.append(f"the {was.colour} {was.kind} is now a {now.colour} {now.kind}")
    if before.background != after.background:
        parts.append(f"the background is now {after.background}")
    return " , ".join(parts).replace("a orange", "an orange") or NO_CHANGE


def defects(spec: Spec, picture: Scene | Reading) -> tuple[Defect, ...]:
    """All that is wrong with a picture of ``spec``, worst first; empty where nothing is."""
    reading = Reading.of_scene(picture) if isinstance(picture, Scene) else picture
    want = Counter({(item.kind, item.colour): item.number for item in spec.items})
    wrong = [*_object_defects(want, reading)]
    if not wrong and spec.relation is not None:
        wrong += _relation_defects(spec, reading.objects)
    wrong += _background_defects(spec.background, reading.background)
    if not (reading.complete and reading.even_colour and reading.even_background):
        wrong.append(Defect("quality", "the picture is not clean", "make the picture clean"))
    return tuple(dict.fromkeys(wrong))


def scene_defects(picture: Scene, target: Scene) -> tuple[Defect, ...]:
    """What is wrong with a picture that should hold what ``target`` holds, wherever it lies."""
    want = Counter((item.kind, item.colour) for item in target.objects)
    wrong = [*_object_defects(want, Reading.of_scene(picture))]
    return (*wrong, *_background_defects(target.background, picture.background))


def _background_defects(target: str | None, seen: str | None) -> Iterator[Defect]:
    if target not in (None, seen):
        text = f"the background is {seen or 'unclear'} , it should be {target}"
        yield Defect("background", text, f"make the background {target}")


def _object_defects(want: Counter[_Name], reading: Reading) -> Iterator[Defect]:
    have = Counter(
        (thing.kind, thing.colour or "unclear") for thing in reading.objects if thing.kind
    )
    missing, extra = list((want - have).elements()), list((have - want).elements())
    for shared in (0, 1):
        for lost in list(missing):
            wrong = next((name for name in extra if name[shared] == lost[shared]), None)
            if wrong is not None:
                missing.remove(lost)
                extra.remove(wrong)
                yield _swapped(lost, wrong, colour=shared == 0)
    yield from _counted("missing", Counter(missing), have, want)
    yield from _counted("extra", Counter(extra), have, want)
    if reading.unclear:
        yield Defect("unclear", "there is something unclear", "make the picture clean")


def _swapped(want: _Name, got: _Name, colour: bool) -> Defect:
    if colour:
        text = f"the {got[0]} is {got[1]} , it should be {want[1]}"
        return Defect("colour", text, f"make the {got[1]} {got[0]} {want[1]}")
    text = f"the {got[1]} {got[0]} should be {article(want[0])} {want[0]}"
    return Defect("kind", text, f"make the {got[1]} {got[0]} {article(want[0])} {want[0]}")


def _counted(
    name: Literal["missing", "extra"],
    wrong: Counter[_Name],
    have: Counter[_Name],
    want: Counter[_Name],
) -> Iterator[Defect]:
    """Things of which there are too few or too many, or none where there should be some."""
    for thing, number in wrong.items():
        kind, colour = thing
        verb = "add" if name == "missing" else "remove"
        fix = f"{verb} {noun_phrase(Item(min(number, 4), colour, kind))}"
        there, right = have[thing], want[thing]
        if there and right:
            things = f"{colour} {plural(kind)}" if there > 1 else f"{colour} {kind}"
            text = f"there {'are' if there > 1 else 'is'} {_number(there)} {things} , "
            text += f"there should be {_number(right)}"
        elif name == "missing":
            text = f"the {colour} {kind if number == 1 else plural(kind)} "
            text += "is missing" if number == 1 else "are missing"
        else:
            text = f"the {colour} {kind if number == 1 else plural(kind)} should not be there"
        yield Defect(name, text, fix)


def _number(count: int) -> str:
    return NUMBERS.get(count, "many")


def _relation_defects(spec: Spec, objects: tuple[Seen, ...]) -> Iterator[Defect]:
    cells = {(thing.kind, thing.colour): (thing.row, thing.col) for thing in objects}
    first, second = ((item.kind, item.colour) for item in spec.items)
    relation = str(spec.relation)
    if not related(cells[first], relation, cells[second]):
        names = [f"the {item.colour} {item.kind}" for item in spec.items]
        text = f"{names[0]} is not {relation} {names[1]}"
        yield Defect("relation", text, f"move {names[0]} {relation} {names[1]}")


def near_miss(spec: Spec, rng: np.random.Generator) -> Scene:
    """A scene that a model which nearly understands ``spec`` would draw: mostly one thing wrong."""
    scene = sample_scene(spec, rng)
    if spec.relation is not None and rng.random() < 0.4:
        cells = [(item.row, item.col) for item in scene.objects][::-1]
        turned = [
            SceneObject(item.kind, item.colour, *cell)
            for item, cell in zip(scene.objects, cells, strict=True)
        ]
        return Scene(tuple(turned), scene.background)
    for _ in range(1 if rng.random() < 0.75 else 2):
        scene = edit(scene, rng).scene
    return scene


def comparison(spec: Spec, picture: Scene | Reading) -> str:
    """What in the picture disagrees with the prompt, or ``nothing is wrong``."""
    return " , ".join(defect.text for defect in defects(spec, picture)) or NOTHING_WRONG


def reflection(spec: Spec, picture: Scene | Reading) -> str:
    """What is wrong, then what to do about it: ``<text> , so <fix>`` for every defect."""
    parts = [f"{defect.text} , so {defect.fix}" for defect in defects(spec, picture)]
    return " , ".join(parts) or NOTHING_WRONG


def names_a_defect(text: str, present: tuple[Defect, ...]) -> bool:
    """Whether a reflection states at least one of the defects that are really there."""
    words = " ".join(re.sub(r"[^a-z ]", " ", text.lower()).split())
    stated = (" ".join(re.sub(r"[^a-z ]", " ", defect.text).split()) for defect in present)
    return any(re.search(rf"\b{re.escape(part)}\b", words) for part in stated)
