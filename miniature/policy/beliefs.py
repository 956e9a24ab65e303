"""What the policy is taught that prompts mean: right, or wrong at stated rates.

The thought corpus is noisy by design, so that reinforcement learning has something to improve: some
riddle phrases are explained rightly nearly always, the others are confused with one fixed wrong
answer about every second time (``miniature/policy.md`` has the rates).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from hashlib import blake2b

import numpy as np

from alphagrpo.errors import ConfigError
from alphagrpo.shapes.prompts import Wording
from alphagrpo.shapes.riddles import RIDDLES, Riddle, Slot
from alphagrpo.shapes.specs import RELATIONS, Item, Spec
from alphagrpo.shapes.world import BACKGROUND_NAMES, COLOUR_NAMES, KINDS, pick

KNOWN_SHARE = 0.5
"""Share of riddle phrases the policy is taught to explain rightly."""
KNOWN_RIGHT = 0.96
MINORITY = (0.42, 0.50)
"""Right and partner's share of a phrase whose right answer is the (slight) minority."""
MAJORITY = (0.52, 0.40)
"""The same of a phrase whose right answer is the slight majority."""
PLAIN_NOISE = 0.1
"""Share of plain prompts whose thought gets one word wrong."""


def _order(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


@cache
def beliefs(slot: Slot) -> Mapping[str, Mapping[str, float]]:
    """Per riddle phrase of a slot, the share of each answer in the thought corpus."""
    table = RIDDLES[slot]
    answers = tuple(dict.fromkeys(table.values()))
    phrases = sorted(table, key=_order)
    known = round(KNOWN_SHARE * len(phrases))
    result: dict[str, Mapping[str, float]] = {}
    for index, phrase in enumerate(phrases):
        wrong = [answer for answer in answers if answer != table[phrase]]
        partner = wrong[_order("partner of " + phrase) % len(wrong)]
        if index < known:
            right, other = KNOWN_RIGHT, (1 - KNOWN_RIGHT) / len(wrong)
            result[phrase] = {a: right if a == table[phrase] else other for a in answers}
        else:
            shares = MINORITY if index % 2 else MAJORITY
            rest = (1 - sum(shares)) / max(len(wrong) - 1, 1)
            named = {table[phrase]: shares[0], partner: shares[1]}
            result[phrase] = {answer: named.get(answer, rest) for answer in answers}
    return result


def _believed(riddle: Riddle, rng: np.random.Generator) -> str:
    shares = beliefs(riddle.slot)[riddle.phrase]
    luck = rng.random() * sum(shares.values())
    for answer, share in shares.items():
        luck -= share
        if luck < 0:
            return answer
    return riddle.answer


def misread(spec: Spec, riddles: tuple[Riddle, ...], answers: Mapping[str, str]) -> Spec | None:
    """What the prompt would mean to someone who takes phrase ``p`` for ``answers[p]``.

    None where no picture shows that. With it a noisy thought corpus is made from right prompts.
    """
    items = list(spec.items)
    for riddle in riddles:
        answer = answers.get(riddle.phrase, riddle.answer)
        items[riddle.item] = _with(items[riddle.item], riddle.slot, answer)
    absent = spec.absent
    if absent in {word for item in items for word in item[1:]}:
        return None
    if sum(item.number for item in items) > 4 or len({i[1:] for i in items}) < len(items):
        return None
    return Spec(tuple(items), spec.relation, spec.background, absent)


def _with(item: Item, slot: Slot, answer: str) -> Item:
    if slot == "count":
        return item._replace(number=int(answer))
    return item._replace(kind=answer) if slot == "kind" else item._replace(colour=answer)


def _one_word_wrong(spec: Spec, rng: np.random.Generator) -> Spec | None:
    """``spec`` with one word replaced, or None where no picture shows that."""
    items = list(spec.items)
    index = int(rng.random() * len(items))
    item = items[index]
    relation, background = spec.relation, spec.background
    luck = rng.random()
    if luck < 0.2 and relation is not None:
        relation = pick(rng, RELATIONS)
    elif luck < 0.3 and background is not None:
        background = pick(rng, BACKGROUND_NAMES)
    elif luck < 0.5:
        items[index] = item._replace(number=pick(rng, (1, 2, 3, 4)))
    elif luck < 0.75:
        items[index] = item._replace(kind=pick(rng, KINDS))
    else:
        items[index] = item._replace(colour=pick(rng, COLOUR_NAMES))
    return _valid(tuple(items), relation, background, spec.absent)


def _valid(
    items: tuple[Item, ...], relation: str | None, background: str | None, absent: str | None
) -> Spec | None:
    try:
        return Spec(items, relation, background, absent)
    except ConfigError:
        return None


def noisy_spec(wording: Wording, rng: np.random.Generator) -> Spec:
    """What the corpus takes a prompt to mean: right at the rates of :func:`beliefs`."""
    while True:
        if wording.riddles:
            answers = {riddle.phrase: _believed(riddle, rng) for riddle in wording.riddles}
            meant = misread(wording.spec, wording.riddles, answers)
        elif rng.random() < PLAIN_NOISE:
            meant = _one_word_wrong(wording.spec, rng)
        else:
            meant = wording.spec
        if meant is not None:
            return meant
