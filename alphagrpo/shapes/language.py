"""The world's plain language: noun phrases, the canonical sentence and its parser, captions."""

from __future__ import annotations

import re
from collections import Counter

from alphagrpo.errors import ConfigError
from alphagrpo.shapes.specs import Item, Spec
from alphagrpo.shapes.world import BACKGROUND_NAMES, COLOUR_NAMES, KINDS, Scene

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
SYSTEM_PROMPT = "think , then draw"
"""What a run of the miniature reads before the prompt; asks for a thought."""

_VALUES = {word: value for value, word in NUMBERS.items()} | {"a": 1, "an": 1}
KIND_OF = {name: kind for kind in KINDS for name in (kind, kind + "s", kind + "es")}
"""Singular or plural to kind."""


def plural(noun: str) -> str:
    """``circle`` to ``circles``, ``cross`` to ``crosses``."""
    return noun + ("es" if noun.endswith("s") else "s")


def article(word: str) -> str:
    """``a`` or ``an``."""
    return "an" if word[0] in "aeiou" else "a"


def noun_phrase(item: Item) -> str:
    """``a red circle``, ``three blue squares``."""
    if item.number == 1:
        return f"{article(item.colour)} {item.colour} {item.kind}"
    return f"{NUMBERS[item.number]} {item.colour} {plural(item.kind)}"


def absence_phrase(absent: str, lead: str = "and") -> str:
    """``and no triangle`` for a kind, ``and nothing green`` for a colour."""
    return f"{lead} no {absent}" if absent in KINDS else f"{lead} nothing {absent}"


def canonical(spec: Spec) -> str:
    """The plain sentence of a specification.

    Example: ``a red circle left of a blue square on a black background``
    """
    joint = f" {spec.relation} " if spec.relation else " and "
    text = joint.join(noun_phrase(item) for item in spec.items)
    if spec.background is not None:
        text += f" on a {spec.background} background"
    if spec.absent is not None:
        text += " " + absence_phrase(spec.absent)
    return text


_ITEM = r"(?:(a|an|one|two|three|four) )?({colours}) ({kinds})".format(
    colours="|".join(COLOUR_NAMES), kinds="|".join(sorted(KIND_OF, key=len, reverse=True))
)
_JOINT = r"(and|with|(?:is |are )?(?:to the )?(?:left of|right of|above|below|over|under))"
_SENTENCE = re.compile(
    rf"(?:draw |both |there is |there are |a picture of )*{_ITEM}(?: {_JOINT} {_ITEM})?"
    rf"(?: on (?:a )?({'|'.join(BACKGROUND_NAMES)})(?: background)?)?"
    rf"(?: (?:and|but|with|without) (?:no|nothing|any) ({'|'.join((*KINDS, *COLOUR_NAMES))}))?"
)
_SYNONYMS = {"over": "above", "under": "below"}


def _item(count: str | None, colour: str, kind: str) -> Item:
    return Item(_VALUES[count or "a"], colour, KIND_OF[kind])


def parse_canonical(text: str) -> Spec | None:
    """The specification a canonical sentence states, or None where it states none.

    Tolerant: case, spacing, punctuation, think tags and the common variants do not matter.
    """
    words = text.lower().replace(THINK_OPEN, " ").replace(THINK_CLOSE, " ")
    match = _SENTENCE.fullmatch(" ".join(re.sub(r"[^a-z ]", " ", words).split()))
    if match is None:
        return None
    n1, c1, k1, joint, n2, c2, k2, background, absent = match.groups()
    items: tuple[Item, ...] = (_item(n1, c1, k1),)
    relation = None
    if joint is not None:
        items += (_item(n2, c2, k2),)
        if joint not in ("and", "with"):
            word = re.sub(r"^(is |are )?(to the )?", "", joint)
            relation = _SYNONYMS.get(word, word)
    try:
        return Spec(items, relation, background, absent)
    except ConfigError:
        return None


def thought(spec: Spec) -> str:
    """``<think>canonical sentence</think>``: what a right thought says of any prompt."""
    return f"{THINK_OPEN}{canonical(spec)}{THINK_CLOSE}"


def thought_is_right(text: str, spec: Spec) -> bool:
    """Whether a thought states exactly ``spec``; "A left of B" is the same as "B right of A"."""
    stated = parse_canonical(text)
    return stated is not None and stated.normal() == spec.normal()


def join_phrases(phrases: list[str]) -> str:
    """``a``, ``a and b``, ``a , b and c``."""
    if len(phrases) < 2:
        return "".join(phrases)
    return f"{' , '.join(phrases[:-1])} and {phrases[-1]}"


def describe(scene: Scene) -> str:
    """Full caption: the objects in order of colour and kind, then the background."""
    have = Counter((item.colour, item.kind) for item in scene.objects)
    order = sorted(have, key=lambda key: (COLOUR_NAMES.index(key[0]), KINDS.index(key[1])))
    phrases = [noun_phrase(Item(have[key], *key)) for key in order] or ["nothing"]
    return f"{join_phrases(phrases)} on a {scene.background} background"
