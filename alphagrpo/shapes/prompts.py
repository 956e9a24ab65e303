"""Wordings: how a specification is put into words, plainly or as a riddle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from alphagrpo.shapes.language import NUMBERS, absence_phrase, article, noun_phrase, plural
from alphagrpo.shapes.riddles import RIDDLES, Riddle, Slot, riddle_noun
from alphagrpo.shapes.specs import FAMILY_MIX, Family, Item, Spec, sample_family, sample_spec
from alphagrpo.shapes.world import pick
from alphagrpo.types import Sort

THOUGHT_MIX: Mapping[Family, float] = {"single": 0.4, "count": 0.4, "pair": 0.2}
"""Share of each family among prompts that need a thought."""
OPENINGS = ("", "draw ", "a picture of ")
_EXISTENTIAL = "there is ", "there are "
_RELATION_WORDS: Mapping[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "is left of"),
    "right of": ("right of", "to the right of", "is right of"),
    "above": ("above", "over", "is above"),
    "below": ("below", "under", "is below"),
}
_PHRASES_OF: Mapping[Slot, Mapping[str, tuple[str, ...]]] = {
    slot: {
        answer: tuple(phrase for phrase, known in table.items() if known == answer)
        for answer in dict.fromkeys(table.values())
    }
    for slot, table in RIDDLES.items()
}


@dataclass(frozen=True, slots=True)
class Wording:
    """A prompt's text, what it asks for, and the riddles in it (none in a plain prompt)."""

    text: str
    spec: Spec
    riddles: tuple[Riddle, ...] = ()


def _extras(spec: Spec, rng: np.random.Generator) -> str:
    text = ""
    if spec.background is not None:
        text += pick(rng, (f" on a {spec.background} background", f" on {spec.background}"))
    if spec.absent is not None:
        text += " " + absence_phrase(spec.absent, pick(rng, ("and", "but")))
    return text


def plain_wording(spec: Spec, rng: np.random.Generator) -> Wording:
    """``spec`` in one of its plain phrasings, chosen by ``rng``."""
    phrases = [noun_phrase(item) for item in spec.items]
    if spec.family == "relation":
        body = f" {pick(rng, _RELATION_WORDS[str(spec.relation)])} ".join(phrases)
        is_sentence = " is " in body
        opening = "" if is_sentence else pick(rng, OPENINGS)
    else:
        body = pick(rng, (" and ", " with ")).join(phrases)
        opening = pick(rng, (*OPENINGS, _EXISTENTIAL[spec.items[0].number > 1]))
    return Wording(opening + body + _extras(spec, rng), spec)


def riddle_wording(spec: Spec, rng: np.random.Generator, riddle_share: float = 0.7) -> Wording:
    """``spec`` as a prompt that needs a thought: at least one word is a riddle.

    ``riddle_share`` is how often each word that could be a riddle is one.
    """
    while True:
        riddles: list[Riddle] = []
        parts = [
            _riddled_item(item, index, rng, riddle_share, riddles)
            for index, item in enumerate(spec.items)
        ]
        if riddles:
            text = pick(rng, OPENINGS) + " and ".join(parts) + _extras(spec, rng)
            return Wording(text, spec, tuple(riddles))


def _riddled_item(
    item: Item, index: int, rng: np.random.Generator, share: float, riddles: list[Riddle]
) -> str:
    """Words of one item; the riddles used are appended to ``riddles``."""

    def ask(slot: Slot, answer: str) -> str | None:
        if rng.random() >= share:
            return None
        phrase = pick(rng, _PHRASES_OF[slot][answer])
        riddles.append(Riddle(slot, phrase, answer, index))
        return phrase

    kind, colour = ask("kind", item.kind), ask("colour", item.colour)
    count = ask("count", str(item.number)) if item.number > 1 else None
    singular = item.number == 1
    noun = riddle_noun(kind, item.number) if kind else item.kind if singular else plural(item.kind)
    text = f"{noun} in the colour of {colour}" if colour else f"{item.colour} {noun}"
    if count:
        return f"as many {text} as {count}"
    return f"{article(text) if singular else NUMBERS[item.number]} {text}"


def sample_wording(sort: Sort, rng: np.random.Generator, family: Family | None = None) -> Wording:
    """A random prompt of a sort, held-out combinations included (``splits`` tells them apart)."""
    family = family or sample_sort_family(sort, rng)
    spec = sample_spec(rng, family)
    return plain_wording(spec, rng) if sort == "plain" else riddle_wording(spec, rng)


def sample_sort_family(sort: Sort, rng: np.random.Generator) -> Family:
    """A family of prompts, sampled by its share among prompts of a sort."""
    return sample_family(FAMILY_MIX if sort == "plain" else THOUGHT_MIX, rng)
