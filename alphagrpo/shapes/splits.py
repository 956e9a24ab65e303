"""Which combinations are held out, and where prompts come from.

Every wording has *keys*, the combinations in it:

- ``single colour kind``: one object alone in the picture;
- ``count n colour kind``: n > 1 objects of one colour and kind;
- ``pair``: two different (colour, kind) in one picture, whatever their order and relation;
- ``riddle noun colour``: the words of an item in which the kind or the colour is a riddle;
- ``riddle count noun``: a count riddle with the noun it counts.

A fifth of all keys, chosen by a hash of the key alone, is held out; of the 24 singles one per kind,
each of another colour.
A wording without a held-out key is a training prompt, one with at least one is a held-out prompt.
So each word, each (colour, kind) and each riddle phrase occurs in training: what is tested is
putting them together. Backgrounds, absences and phrasings are free on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from typing import Literal, get_args

import numpy as np

from alphagrpo.errors import ConfigError
from alphagrpo.shapes.prompts import Sort, Wording, sample_sort_family, sample_wording
from alphagrpo.shapes.riddles import Riddle
from alphagrpo.shapes.specs import Family, Spec
from alphagrpo.shapes.world import COLOUR_NAMES, KINDS
from alphagrpo.types import Prompt

Split = Literal["train", "heldout"]
Key = tuple[str, ...]

HELD_OUT_SHARE = 0.2
_PATIENCE = 200
"""Repeats in a row after which texts of a family may come twice: nearly all have been sampled."""


def _position(key: Key) -> float:
    """The key's place in [0, 1), the same on every machine."""
    digest = blake2b("|".join(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@cache
def held_out_singles() -> frozenset[Key]:
    """Four singles: per kind the colour whose key hashes lowest, no colour twice."""
    chosen: dict[str, Key] = {}
    for kind in KINDS:
        keys = [("single", colour, kind) for colour in COLOUR_NAMES if colour not in chosen]
        lowest = min(keys, key=_position)
        chosen[lowest[1]] = lowest
    return frozenset(chosen.values())


@cache
def is_held_out_key(key: Key) -> bool:
    """Whether one combination is held out."""
    if key[0] == "single":
        return key in held_out_singles()
    return _position(key) < HELD_OUT_SHARE


def spec_keys(spec: Spec) -> tuple[Key, ...]:
    """The combinations of objects in a specification."""
    if spec.total == 1:
        return (("single", *spec.items[0][1:]),)
    keys: list[Key] = [
        ("count", str(item.number), item.colour, item.kind)
        for item in spec.items
        if item.number > 1
    ]
    if len(spec.items) == 2:
        first, second = sorted(item[1:] for item in spec.items)
        keys.append(("pair", *first, *second))
    return tuple(keys)


def riddle_keys(spec: Spec, riddles: tuple[Riddle, ...]) -> tuple[Key, ...]:
    """The combinations of words an item with riddles is put in."""
    keys: list[Key] = []
    for index, item in enumerate(spec.items):
        words = {riddle.slot: riddle.phrase for riddle in riddles if riddle.item == index}
        noun, colour = words.get("kind", item.kind), words.get("colour", item.colour)
        if "kind" in words or "colour" in words:
            keys.append(("riddle", noun, colour))
        if "count" in words:
            keys.append(("riddle", words["count"], noun))
    return tuple(keys)


def wording_keys(wording: Wording) -> tuple[Key, ...]:
    """All keys of a wording."""
    return spec_keys(wording.spec) + riddle_keys(wording.spec, wording.riddles)


def split_of(wording: Wording) -> Split:
    """``heldout`` where any of the wording's combinations is held out, else ``train``."""
    return "heldout" if any(map(is_held_out_key, wording_keys(wording))) else "train"


def sample_split_wording(split: Split, sort: Sort, rng: np.random.Generator) -> Wording:
    """One random wording of a split; for training corpora, where texts may repeat.

    The family is sampled first, so that every split has the same mix of families.
    """
    return _wording_of(split, sort, sample_sort_family(sort, rng), rng)


def _wording_of(split: Split, sort: Sort, family: Family, rng: np.random.Generator) -> Wording:
    while True:
        wording = sample_wording(sort, rng, family)
        if split_of(wording) == split:
            return wording


def to_prompt(wording: Wording, split: Split, sort: Sort) -> Prompt:
    """The prompt record; its id is a hash of the text, so the same in every run."""
    digest = blake2b(wording.text.encode(), digest_size=6).hexdigest()
    return Prompt(
        id=f"shapes-{split}-{sort}-{digest}",
        text=wording.text,
        metadata={
            "spec": wording.spec.to_json(),
            "riddles": [riddle.to_json() for riddle in wording.riddles],
            "split": split,
            "sort": sort,
        },
    )


def spec_of(prompt: Prompt) -> Spec:
    """The specification a shapes prompt carries; for the oracle alone, never for a reward.

    Raises ConfigError for a prompt that is not of this world.
    """
    try:
        return Spec.from_json(prompt.metadata["spec"])
    except KeyError:
        raise ConfigError(
            f"the oracle reads a prompt's meaning from metadata['spec'], {prompt.id!r} has none; "
            "take prompts from alphagrpo.shapes.splits"
        ) from None


def wordings(split: Split, sort: Sort, n: int, seed: int) -> Iterator[Wording]:
    """``n`` wordings, distinct as long as a family has new texts; a function of the seed."""
    _check(split, sort, n)
    rng = np.random.default_rng([seed, get_args(Split).index(split), get_args(Sort).index(sort)])
    seen: set[str] = set()
    spent: set[Family] = set()
    for _ in range(n):
        family = sample_sort_family(sort, rng)
        tries = 1 if family in spent else _PATIENCE
        for _ in range(tries):
            wording = _wording_of(split, sort, family, rng)
            if wording.text not in seen:
                break
        else:
            spent.add(family)
        seen.add(wording.text)
        yield wording


def prompts(split: Split, sort: Sort, n: int, seed: int) -> list[Prompt]:
    """``n`` prompts of a split and sort, distinct where possible; a function of the arguments."""
    return [to_prompt(wording, split, sort) for wording in wordings(split, sort, n, seed)]


def _check(split: str, sort: str, n: int) -> None:
    if split not in get_args(Split) or sort not in get_args(Sort):
        raise ConfigError(
            f"prompts are of split train or heldout and of sort plain or thought, "
            f"got {split!r}, {sort!r}; correct the spelling"
        )
    if n < 1:
        raise ConfigError(f"the number of prompts is at least 1, got {n}; ask for more")
