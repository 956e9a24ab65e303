"""Reference question sets: what a right decomposition asks about a prompt of this world.

Tags are aspects of :mod:`alphagrpo.judging.questions`. Each set asks for the total: with existence
questions alone a policy soon draws objects that the prompt does not name.
"""

from __future__ import annotations

from alphagrpo.shapes.grammar import QUALITY_TEXT
from alphagrpo.shapes.language import NUMBERS, article, plural
from alphagrpo.shapes.specs import Item, Spec
from alphagrpo.shapes.world import KINDS
from alphagrpo.types import Question

_Draft = tuple[str, str, tuple[int, ...]]


def _exists(item: Item, coloured: bool = True) -> str:
    thing = f"{item.colour} {item.kind}" if coloured else item.kind
    return f"is there {article(thing)} {thing} ?"


def _single_or_count(item: Item) -> list[_Draft]:
    if item.number == 1:
        first = (_exists(item, coloured=False), "Existence", ())
        return [first, (f"is the {item.kind} {item.colour} ?", "Attribute", (0,))]
    kinds = plural(item.kind)
    first = (f"are there exactly {NUMBERS[item.number]} {kinds} ?", "Count", ())
    return [first, (f"are the {kinds} {item.colour} ?", "Attribute", (0,))]


def _several(spec: Spec) -> list[_Draft]:
    drafts: list[_Draft] = []
    for item in spec.items:
        if item.number == 1:
            drafts.append((_exists(item), "Existence", ()))
        else:
            things = f"{NUMBERS[item.number]} {item.colour} {plural(item.kind)}"
            drafts.append((f"are there exactly {things} ?", "Count", ()))
    if spec.relation is not None:
        first, second = (f"the {item.colour} {item.kind}" for item in spec.items)
        drafts.append((f"is {first} {spec.relation} {second} ?", "Spatial", (0, 1)))
    return drafts


def total_question(count: int) -> str:
    """``are there exactly two objects in total ?``"""
    if count == 1:
        return "is there exactly one object in total ?"
    return f"are there exactly {NUMBERS[count]} objects in total ?"


def _semantic(spec: Spec) -> list[_Draft]:
    drafts = _single_or_count(spec.items[0]) if len(spec.items) == 1 else _several(spec)
    drafts.append((total_question(spec.total), "Count", ()))
    if spec.background is not None:
        drafts.append((f"is the background {spec.background} ?", "Environment", ()))
    if spec.absent is not None:
        thing = spec.absent if spec.absent in KINDS else f"{spec.absent} object"
        drafts.append((f"is there no {thing} ?", "Negative", ()))
    return drafts


def _quality(spec: Spec) -> list[tuple[str, str]]:
    pairs = [(QUALITY_TEXT["geometry"], "Geometry"), (QUALITY_TEXT["texture"], "Texture")]
    if len(spec.items) == 1 or spec.background is not None:
        pairs.append((QUALITY_TEXT["coherence"], "Coherence"))
    return pairs


def reference_questions(spec: Spec) -> tuple[Question, ...]:
    """The 5 to 8 questions a right decomposition asks; in all of them yes is good."""
    semantic = [
        Question(
            id=f"s{i}", text=text, kind="semantic", tag=tag,
            depends_on=tuple(f"s{need}" for need in needs),
        )
        for i, (text, tag, needs) in enumerate(_semantic(spec))
    ]  # fmt: skip
    quality = [
        Question(id=f"q{i}", text=text, kind="quality", tag=tag)
        for i, (text, tag) in enumerate(_quality(spec))
    ]
    return (*semantic, *quality)
