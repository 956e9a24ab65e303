"""Prompts a verifier is asked about as a whole: right ones, nearly right ones and wrong ones.

A prompt is made to a picture and not the other way round: what the picture shows is put into
words, or what it should have shown, or either with something changed. Only training wordings are
used, so that held-out prompts stay unseen as texts.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from alphagrpo.errors import ConfigError
from alphagrpo.shapes.grammar import Reading
from alphagrpo.shapes.prompts import Sort, Wording, plain_wording, riddle_wording
from alphagrpo.shapes.specs import (
    BACKGROUND_SHARE,
    RELATIONS,
    Item,
    Spec,
    related,
    sample_extras,
    sample_spec,
)
from alphagrpo.shapes.splits import sample_split_wording, split_of
from alphagrpo.shapes.world import BACKGROUND_NAMES, COLOUR_NAMES, KINDS, MAX_OBJECTS, pick
from miniature.verifier.texts import semantic_truths

_TRIES = 4
_REWORDINGS = 4
_FOREIGN_SHARE = 0.12
_MOST_OF_ONE = 3
"""Most objects of one sort in a prompt with two sorts."""


def _items(reading: Reading, rng: np.random.Generator) -> tuple[Item, ...]:
    """One or two sorts of what is seen, in random order, their numbers cut to what may be asked."""
    have = Counter((s.colour, s.kind) for s in reading.objects if s.colour and s.kind)
    sorts = sorted(have)
    chosen = [sorts[int(i)] for i in rng.permutation(len(sorts))[:2]]
    if len(chosen) < 2:
        return tuple(Item(min(have[sort], MAX_OBJECTS), *sort) for sort in chosen)
    numbers = [min(have[sort], _MOST_OF_ONE) for sort in chosen]
    if min(numbers) > 1:
        numbers[0] = 1
    return tuple(Item(n, *sort) for n, sort in zip(numbers, chosen, strict=True))


def _true_relation(items: tuple[Item, ...], reading: Reading, rng: np.random.Generator) -> str:
    """A relation in which the two single objects are seen, else any."""
    cells = {(s.colour, s.kind): (s.row, s.col) for s in reading.objects}
    first, second = (cells[item[1:]] for item in items)
    return pick(rng, [name for name in RELATIONS if related(first, name, second)])


def nearest_spec(reading: Reading, rng: np.random.Generator) -> Spec:
    """What a prompt of this world could say about what is seen; any where nothing clear is.

    It holds where the picture shows at most two sorts in numbers that may be asked for.
    """
    items = _items(reading, rng)
    if not items:
        return sample_spec(rng)
    relation = None
    if [item.number for item in items] == [1, 1] and rng.random() < 0.6:
        relation = _true_relation(items, reading, rng)
    if reading.background and rng.random() < BACKGROUND_SHARE:
        return Spec(items, relation, reading.background, None)
    return Spec(items, relation, None, sample_extras(items, rng)[1])


def _changed_item(item: Item, rng: np.random.Generator, alone: bool) -> Item:
    luck = rng.random()
    if luck < 0.35:
        return item._replace(colour=pick(rng, COLOUR_NAMES))
    if luck < 0.65:
        return item._replace(kind=pick(rng, KINDS))
    most = MAX_OBJECTS if alone else _MOST_OF_ONE
    return item._replace(number=min(max(item.number + pick(rng, (-2, -1, 1, 1, 2)), 1), most))


def _swapped(items: list[Item], rng: np.random.Generator) -> list[Item]:
    """The same words about other things: colours, kinds or numbers of two items change places."""
    first, second = items
    field = pick(rng, Item._fields)
    return [
        first._replace(**{field: getattr(second, field)}),
        second._replace(**{field: getattr(first, field)}),
    ]


def altered_spec(spec: Spec, rng: np.random.Generator) -> Spec:
    """The specification with one thing changed; at times nothing, where a change is impossible."""
    items, (first, second) = list(spec.items), rng.random(2)
    relation, background = spec.relation, spec.background
    if relation is not None and first < 0.4:
        relation = pick(rng, RELATIONS)
    elif background is not None and first < 0.4:
        background = pick(rng, BACKGROUND_NAMES)
    elif len(items) == 2 and second < 0.3:
        items = _swapped(items, rng)
    elif len(items) == 2 and second < 0.4:
        items = [pick(rng, items)]
    elif len(items) == 1 and items[0].number <= _MOST_OF_ONE and second < 0.15:
        items.append(Item(1, pick(rng, COLOUR_NAMES), pick(rng, KINDS)))
    else:
        index = int(rng.random() * len(items))
        items[index] = _changed_item(items[index], rng, alone=len(items) == 1)
    if relation is not None and [item.number for item in items] != [1, 1]:
        relation = None
    try:
        return Spec(tuple(items), relation, background, spec.absent)
    except ConfigError:
        return spec


def training_wording(spec: Spec, sort: Sort, rng: np.random.Generator) -> Wording | None:
    """``spec`` in words of the training split, or None where a few tries give none.

    Riddles are asked about single sorts and pairs only; other specifications are worded plainly.
    """
    mixed = len(spec.items) == 2 and spec.total > 2
    for _ in range(_REWORDINGS):
        if sort == "plain" or spec.relation is not None or mixed:
            wording = plain_wording(spec, rng)
        else:
            wording = riddle_wording(spec, rng)
        if split_of(wording) == "train":
            return wording
    return None


def _candidate(reading: Reading, meant: Reading, rng: np.random.Generator, right: bool) -> Spec:
    if not right and rng.random() < _FOREIGN_SHARE:
        return sample_spec(rng)
    spec = nearest_spec(reading if rng.random() < 0.6 else meant, rng)
    if right:
        return spec
    for _ in range(1 if rng.random() < 0.75 else 2):
        spec = altered_spec(spec, rng)
    return spec


def prompt_about(
    reading: Reading, meant: Reading, sort: Sort, rng: np.random.Generator, right: bool
) -> tuple[Wording, list[bool]]:
    """A training wording about a picture, and which of its semantic questions hold.

    ``reading`` is what is seen, ``meant`` what was to be drawn. ``right`` asks for a prompt that
    holds altogether (or not); where a few tries find none, the last one is taken as it is, and
    where there are no words for it at all, any training prompt.
    """
    last: tuple[Wording, list[bool]] | None = None
    for attempt in range(10 * _TRIES):
        wording = training_wording(_candidate(reading, meant, rng, right), sort, rng)
        if wording is None:
            # All words for what is seen may be held out: then only something else can be asked.
            right = right and attempt < _TRIES
            continue
        last = wording, semantic_truths(wording.spec, reading)
        if all(last[1]) == right or attempt >= _TRIES:
            break
    if last is None:
        # Nearly all words for what is seen, and for what is nearly so, may be held out.
        wording = sample_split_wording("train", sort, rng)
        last = wording, semantic_truths(wording.spec, reading)
    return last
