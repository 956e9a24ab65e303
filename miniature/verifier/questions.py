"""Questions a verifier learns from: the whole grammar, about what is seen and near misses of it.

Each question type asks "yes" and "no" about as often: the answer is sampled first, and a few
candidates are tried for one that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from alphagrpo.shapes.grammar import QUALITY_TEXT, Predicate, Reading, Seen, parse_question
from alphagrpo.shapes.language import NUMBERS, article, plural
from alphagrpo.shapes.specs import RELATIONS
from alphagrpo.shapes.world import BACKGROUND_NAMES, COLOUR_NAMES, KINDS, MAX_OBJECTS, pick

_TRIES = 8
_MIX = (
    ("existence", 0.12),
    ("attribute", 0.15),
    ("count", 0.26),
    ("total", 0.15),
    ("spatial", 0.24),
    ("background", 0.03),
    ("negative", 0.05),
)
"""Share of each type among the questions that are not about quality."""
_EDGES = np.cumsum([share for _, share in _MIX])
_WITHOUT_PLACE = tuple(entry for entry in _MIX if entry[0] != "spatial")
_EDGES_WITHOUT = np.cumsum([share for _, share in _WITHOUT_PLACE])
Thing = tuple[str, str]


@lru_cache(maxsize=100_000)
def predicate_of(text: str) -> Predicate:
    """:func:`~alphagrpo.shapes.grammar.parse_question`, remembered."""
    return parse_question(text)


def _near(reading: Reading, rng: np.random.Generator) -> Thing:
    """(kind, colour) of something seen, or with one of both changed, or of nothing there."""
    kind, colour = pick(rng, KINDS), pick(rng, COLOUR_NAMES)
    if reading.objects and rng.random() < 0.85:
        seen: Seen = pick(rng, reading.objects)
        luck = rng.random()
        if luck < 0.8:
            kind = seen.kind or kind
        if luck < 0.6 or luck > 0.8:
            colour = seen.colour or colour
    return kind, colour


def _existence(reading: Reading, rng: np.random.Generator) -> str:
    kind, colour = _near(reading, rng)
    luck = rng.random()
    thing = f"{colour} {kind}" if luck < 0.65 else kind if luck < 0.95 else f"{colour} object"
    return f"is there {article(thing)} {thing} ?"


def _attribute(reading: Reading, rng: np.random.Generator) -> str:
    kind, colour = _near(reading, rng)
    if rng.random() < 0.5:
        return f"is the {kind} {colour} ?"
    return f"are the {plural(kind)} {colour} ?"


def _count_word(true: int, rng: np.random.Generator, least: int = 1) -> int:
    """The true number or one near it: off by one more often than by two."""
    guess = true + (0 if rng.random() < 0.5 else pick(rng, (-1, -1, 1, 1, -2, 2)))
    return min(max(guess, least), MAX_OBJECTS)


def _count(reading: Reading, rng: np.random.Generator) -> str:
    kind, colour = _near(reading, rng)
    coloured = rng.random() < 0.5
    same = [s for s in reading.objects if s.kind == kind and (not coloured or s.colour == colour)]
    number = _count_word(len(same), rng, least=1 if rng.random() < 0.2 else 2)
    noun = kind if number == 1 else plural(kind)
    verb = "is" if number == 1 else "are"
    return f"{verb} there exactly {NUMBERS[number]} {colour + ' ' if coloured else ''}{noun} ?"


def _total(reading: Reading, rng: np.random.Generator) -> str:
    number = _count_word(len(reading.objects), rng)
    if number == 1:
        return "is there exactly one object in total ?"
    return f"are there exactly {NUMBERS[number]} objects in total ?"


def _spatial(reading: Reading, rng: np.random.Generator) -> str:
    clear = {(s.kind, s.colour) for s in reading.objects if s.kind and s.colour}
    if len(clear) < 2 and rng.random() < 0.7:
        # Always "no": asked often, it would be an answer that needs no look at places.
        return _existence(reading, rng)
    pair = [_near(reading, rng), _near(reading, rng)]
    if len(clear) > 1 and rng.random() < 0.8:
        names = sorted(clear)
        pair = [names[int(i)] for i in rng.permutation(len(names))[:2]]
    parts = [f"{colour} {kind}" if rng.random() < 0.9 else kind for kind, colour in pair]
    return f"is the {parts[0]} {pick(rng, RELATIONS)} the {parts[1]} ?"


def _background(reading: Reading, rng: np.random.Generator) -> str:
    true = reading.background if rng.random() < 0.4 else None
    return f"is the background {true or pick(rng, BACKGROUND_NAMES)} ?"


def _negative(reading: Reading, rng: np.random.Generator) -> str:
    kind, colour = _near(reading, rng)
    if rng.random() < 0.4:
        kind, colour = pick(rng, KINDS), pick(rng, COLOUR_NAMES)
    luck = rng.random()
    thing = kind if luck < 0.45 else f"{colour} object" if luck < 0.9 else f"{colour} {kind}"
    return f"is there no {thing} ?"


_MAKERS: Mapping[str, Callable[[Reading, np.random.Generator], str]] = {
    "existence": _existence,
    "attribute": _attribute,
    "count": _count,
    "total": _total,
    "spatial": _spatial,
    "background": _background,
    "negative": _negative,
}


def _easy(reading: Reading, rng: np.random.Generator) -> str:
    """A question about one word, nothing being near it on purpose."""
    luck = rng.random()
    if luck < 0.15:
        return _background(reading, rng)
    lead = "is there no" if luck < 0.25 else "is there a"
    if luck > 0.6:
        return f"{lead} {pick(rng, KINDS)} ?"
    colour = pick(rng, COLOUR_NAMES)
    return f"{lead}{'n' * (lead[-1] == 'a' and colour[0] in 'aeiou')} {colour} object ?"


def _sampled_maker(
    rng: np.random.Generator, spatial: bool | None
) -> Callable[[Reading, np.random.Generator], str]:
    if spatial:
        return _spatial
    mix, edges = (_MIX, _EDGES) if spatial is None else (_WITHOUT_PLACE, _EDGES_WITHOUT)
    index = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
    return _MAKERS[mix[index][0]]


def semantic_question(
    reading: Reading, rng: np.random.Generator, ease: float = 0.0, spatial: bool | None = None
) -> str:
    """One question that is not about quality, its answer near enough a coin's throw.

    ``ease`` is the share of questions about one word. ``spatial`` asks for a relation (as far as
    there are two things) or for anything else; None leaves it to the mix.
    """
    maker = _sampled_maker(rng, spatial)
    if rng.random() < ease:
        maker = _easy
    answer = rng.random() < 0.5
    text = ""
    for _ in range(_TRIES):
        text = maker(reading, rng)
        if predicate_of(text).holds(reading) == answer:
            break
    return text


def training_questions(
    reading: Reading, n: int, rng: np.random.Generator, ease: float = 0.0
) -> list[str]:
    """``n`` questions about one picture: the three of quality, the rest about what is there."""
    semantic = [semantic_question(reading, rng, ease) for _ in range(n - 3)]
    return [*QUALITY_TEXT.values(), *semantic]
