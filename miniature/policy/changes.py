"""Changes of pictures for the policy's skills: what is spoilt, its repair, how to ask for it.

A :class:`Change` is a picture, another one, and three ways to say what lies between them. It never
holds a prompt: what a whole picture should be is asked in comparisons only, and what follows a
comparison is in no example (``miniature/policy.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alphagrpo.shapes.edits import (
    NOTHING_WRONG,
    Defect,
    defects,
    difference,
    edit,
    scene_defects,
)
from alphagrpo.shapes.specs import Spec, related, sample_scene
from alphagrpo.shapes.world import (
    BACKGROUND_NAMES,
    COLOUR_NAMES,
    KINDS,
    MAX_OBJECTS,
    Scene,
    SceneObject,
    pick,
)

SPOILS = (0, 0, 1, 1, 1, 1, 2)
"""How many things are spoilt in a picture of a prompt; each as likely."""
EDITS = (1, 1, 1, 2, 2, 3)
"""How many edits are asked for at once."""
_MOVED = 0.4
"""Share of spoilt relations among the spoils of a picture that has one."""


@dataclass(frozen=True, slots=True)
class Change:
    """A picture and what it becomes."""

    before: Scene
    after: Scene
    instruction: str
    """What to do, or ``nothing is wrong``."""
    complaint: str
    """What is wrong with the picture before, in the words of a comparison."""

    @property
    def difference(self) -> str:
        """What is new in the picture after."""
        return difference(self.before, self.after)


def edited(scene: Scene, rng: np.random.Generator) -> Change:
    """One to three random edits of ``scene`` at once."""
    after, requests = scene, []
    for _ in range(pick(rng, EDITS)):
        change = edit(after, rng)
        after = change.scene
        requests.append(phrased(change.instruction, rng))
    complaint = " , ".join(defect.text for defect in scene_defects(scene, after))
    return Change(scene, after, listed(requests, rng), complaint or NOTHING_WRONG)


def repaired(spec: Spec, rng: np.random.Generator) -> Change:
    """A spoilt picture of ``spec`` and the picture it was; ``spec`` itself is not stated."""
    after = sample_scene(spec, rng)
    before = spoilt(spec, after, rng)
    wrong = defects(spec, before)
    if not wrong:
        return Change(before, before, NOTHING_WRONG, NOTHING_WRONG)
    fixes = [phrased(defect.fix, rng) for defect in wrong]
    return Change(before, after, listed(fixes, rng), complaint_of(wrong))


def complaint_of(wrong: Sequence[Defect]) -> str:
    """The words of a comparison that finds these defects."""
    return " , ".join(defect.text for defect in wrong) or NOTHING_WRONG


def listed(requests: Sequence[str], rng: np.random.Generator) -> str:
    """Several requests in one line, in any order."""
    order = rng.permutation(len(requests))
    return pick(rng, (" , ", " and ")).join(requests[i] for i in order)


def phrased(instruction: str, rng: np.random.Generator) -> str:
    """An instruction as it stands, or as a wish: ``the circle should be blue``."""
    if rng.random() < 0.5:
        return instruction
    verb, rest = instruction.split(" ", 1)
    if verb == "add":
        return f"there should be {rest} more"
    if verb == "remove":
        return f"{rest} should not be there"
    words = rest.split()
    noun = 1 + next(i for i, word in enumerate(words) if word in (*KINDS, "background", "picture"))
    return f"{' '.join(words[:noun])} should be {' '.join(words[noun:])}"


def spoilt(spec: Spec, scene: Scene, rng: np.random.Generator) -> Scene:
    """A picture of ``spec`` with up to two things wrong, as a policy gets them wrong."""
    for _ in range(pick(rng, SPOILS)):
        if spec.relation is not None and rng.random() < _MOVED:
            scene = _misplaced(spec, scene, rng)
        else:
            scene = _spoilt_once(spec, scene, rng)
    return scene


def _spoilt_once(spec: Spec, scene: Scene, rng: np.random.Generator) -> Scene:
    objects, ground, luck = list(scene.objects), scene.background, rng.random()
    if spec.background is not None and luck < 0.15:
        return Scene(
            scene.objects, pick(rng, [name for name in BACKGROUND_NAMES if name != ground])
        )
    if not objects or (luck < 0.5 and len(objects) <= MAX_OBJECTS):
        # Things too many are mostly copies: a policy that draws one circle too often.
        kind, colour = pick(rng, KINDS), pick(rng, COLOUR_NAMES)
        if objects and luck < 0.38:
            kind, colour, *_ = pick(rng, objects)
        objects.append(SceneObject(kind, colour, *pick(rng, scene.free_cells)))
        return Scene(tuple(objects), ground)
    index = int(rng.random() * len(objects))
    item = objects.pop(index)
    if luck < 0.7:
        return Scene(tuple(objects), ground)
    if luck < 0.85:
        other = item._replace(kind=pick(rng, [name for name in KINDS if name != item.kind]))
    else:
        colours = [name for name in COLOUR_NAMES if name != item.colour]
        other = item._replace(colour=pick(rng, colours))
    return Scene((*objects, other), ground)


def _misplaced(spec: Spec, scene: Scene, rng: np.random.Generator) -> Scene:
    """One of the related objects moved to where the relation does not hold; or as it was."""
    names = [(item.kind, item.colour) for item in spec.items]
    by_name = {item[:2]: item for item in scene.objects}
    if any(name not in by_name for name in names):
        return scene
    first, second = (by_name[name] for name in names)
    turned = rng.random() < 0.5
    moved, fixed = (second, first) if turned else (first, second)

    def holds(cell: tuple[int, int]) -> bool:
        ends = (fixed[2:], cell) if turned else (cell, fixed[2:])
        return related(ends[0], str(spec.relation), ends[1])

    cells = [cell for cell in scene.free_cells if not holds(cell)]
    if not cells:
        return scene
    others = tuple(item for item in scene.objects if item != moved)
    return Scene((*others, SceneObject(*moved[:2], *pick(rng, cells))), scene.background)
