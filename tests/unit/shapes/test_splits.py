from __future__ import annotations

import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.shapes.prompts import Sort
from alphagrpo.shapes.riddles import RIDDLES, Riddle
from alphagrpo.shapes.specs import FAMILY_MIX
from alphagrpo.shapes.splits import (
    Key,
    held_out_singles,
    is_held_out_key,
    prompts,
    riddle_keys,
    spec_keys,
    spec_of,
)
from alphagrpo.shapes.world import COLOUR_NAMES, KINDS
from alphagrpo.types import Prompt

SORTS: tuple[Sort, ...] = ("plain", "thought")


def keys_of(prompt: Prompt) -> set[Key]:
    riddles = tuple(Riddle(**value) for value in prompt.metadata["riddles"])
    return {*spec_keys(spec_of(prompt)), *riddle_keys(spec_of(prompt), riddles)}


@pytest.mark.parametrize("sort", SORTS)
def test_held_out_combinations_never_occur_in_training(sort: Sort) -> None:
    trained = set().union(*map(keys_of, prompts("train", sort, 5000, seed=0)))
    held_out = [keys_of(prompt) for prompt in prompts("heldout", sort, 600, seed=1)]
    assert not any(map(is_held_out_key, trained))
    assert all(keys - trained for keys in held_out)
    assert all(any(map(is_held_out_key, keys)) for keys in held_out)


@pytest.mark.parametrize("sort", SORTS)
def test_there_are_enough_distinct_prompts(sort: Sort) -> None:
    for split, n in (("train", 5000), ("heldout", 1024)):
        sampled = prompts(split, sort, n, seed=2)  # type: ignore[arg-type]
        assert len(sampled) == n
        assert len({p.text for p in sampled}) == len({p.id for p in sampled}) == n


def test_splits_share_no_text() -> None:
    for sort in SORTS:
        train = {p.text for p in prompts("train", sort, 3000, seed=3)}
        assert train.isdisjoint(p.text for p in prompts("heldout", sort, 1000, seed=4))


def test_every_attribute_pair_and_phrase_is_trained() -> None:
    plain = [spec_of(p) for p in prompts("train", "plain", 3000, seed=5)]
    seen = {(item.colour, item.kind) for spec in plain for item in spec.items}
    assert seen == {(colour, kind) for colour in COLOUR_NAMES for kind in KINDS}
    thoughts = prompts("train", "thought", 3000, seed=6)
    phrases = {riddle["phrase"] for p in thoughts for riddle in p.metadata["riddles"]}
    assert phrases == {phrase for table in RIDDLES.values() for phrase in table}


def test_held_out_singles_are_spread() -> None:
    singles = held_out_singles()
    assert len(singles) == len({key[1] for key in singles}) == len({key[2] for key in singles}) == 4


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_both_splits_have_the_mix_of_families(split: str) -> None:
    families = [spec_of(p).family for p in prompts(split, "plain", 1000, seed=7)]  # type: ignore[arg-type]
    for family, share in FAMILY_MIX.items():
        assert abs(families.count(family) / 1000 - share) < 0.05


def test_prompts_are_a_function_of_the_seed() -> None:
    assert prompts("train", "thought", 50, seed=8) == prompts("train", "thought", 50, seed=8)
    assert prompts("train", "thought", 50, seed=8) != prompts("train", "thought", 50, seed=9)
    assert prompts("train", "plain", 50, seed=8) == prompts("train", "plain", 80, seed=8)[:50]


@pytest.mark.parametrize(
    ("split", "sort", "n"), [("test", "plain", 1), ("train", "hard", 1), ("train", "plain", 0)]
)
def test_wrong_requests_are_refused(split: str, sort: str, n: int) -> None:
    with pytest.raises(ConfigError):
        prompts(split, sort, n, seed=0)  # type: ignore[arg-type]


def test_a_foreign_prompt_has_no_spec() -> None:
    with pytest.raises(ConfigError, match="p1"):
        spec_of(Prompt(id="p1", text="a castle"))
