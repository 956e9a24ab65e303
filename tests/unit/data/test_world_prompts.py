"""The miniature world's prompt sets as a run loads them: sorts, splits, shares, identities."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from alphagrpo.data import load_heldout, load_prompts, sort_of
from alphagrpo.shapes import splits
from alphagrpo.shapes.language import parse_canonical
from alphagrpo.shapes.riddles import Riddle
from alphagrpo.shapes.splits import is_held_out_key, riddle_keys, spec_keys, spec_of
from alphagrpo.types import Prompt

TRAIN, HELDOUT = "shapes:train", "shapes:heldout"


def riddles_of(prompt: Prompt) -> tuple[Riddle, ...]:
    return tuple(Riddle(**record) for record in prompt.metadata["riddles"])


def held_out_keys(prompt: Prompt) -> list[bool]:
    spec = spec_of(prompt)
    keys = (*spec_keys(spec), *riddle_keys(spec, riddles_of(prompt)))
    return [is_held_out_key(key) for key in keys]


@pytest.mark.parametrize("source", [TRAIN, HELDOUT])
def test_a_prompts_sort_is_what_its_text_needs(source: str) -> None:
    prompts = load_prompts(source, num=300, seed=1)
    for prompt in prompts:
        if sort_of(prompt) == "plain":
            assert not riddles_of(prompt)
            assert parse_canonical(prompt.text) == spec_of(prompt)
        else:
            assert riddles_of(prompt)
            assert parse_canonical(prompt.text) is None
            # A riddle about several shapes has its noun in the plural.
            singular = prompt.text.replace("shapes", "shape")
            assert all(riddle.phrase in singular for riddle in riddles_of(prompt))
    assert {sort_of(prompt) for prompt in prompts} == {"plain", "thought"}


def test_held_out_evaluation_keeps_the_sorts_apart() -> None:
    plain = load_heldout(HELDOUT, num_plain=30, num_thought=0, seed=2)
    thought = load_heldout(HELDOUT, num_plain=0, num_thought=20, seed=2)
    assert [sort_of(prompt) for prompt in plain] == ["plain"] * 30
    assert [sort_of(prompt) for prompt in thought] == ["thought"] * 20
    assert load_heldout(HELDOUT, num_plain=30, num_thought=20, seed=2) == (*plain, *thought)


def test_no_held_out_combination_is_trained_and_every_held_out_prompt_has_one() -> None:
    train = load_prompts(TRAIN, num=1500, seed=3)
    held_out = load_prompts(HELDOUT, num=400, seed=3)
    assert not [prompt.id for prompt in train if any(held_out_keys(prompt))]
    assert not [prompt.id for prompt in held_out if not any(held_out_keys(prompt))]
    assert {prompt.metadata["split"] for prompt in train} == {"train"}
    assert {prompt.metadata["split"] for prompt in held_out} == {"heldout"}


@pytest.mark.parametrize(("share", "thoughts"), [(0.0, 0), (0.25, 10), (0.6, 24), (1.0, 40)])
def test_the_share_of_thought_prompts_is_exact(share: float, thoughts: int) -> None:
    prompts = load_prompts(TRAIN, num=40, thought_share=share, seed=4)
    assert len(prompts) == 40
    assert sum(sort_of(prompt) == "thought" for prompt in prompts) == thoughts


def test_half_of_a_set_are_thought_prompts_and_1024_prompts_are_the_default() -> None:
    prompts = load_prompts(TRAIN)
    assert len({prompt.id for prompt in prompts}) == 1024
    assert sum(sort_of(prompt) == "thought" for prompt in prompts) == 512


def test_a_set_depends_on_its_seed_and_an_id_on_the_text_alone() -> None:
    first, second = (load_prompts(TRAIN, num=200, seed=seed) for seed in (5, 6))
    assert {p.id for p in first} != {p.id for p in second}
    ids = {prompt.text: prompt.id for prompt in first}
    shared = [prompt for prompt in second if prompt.text in ids]
    assert shared
    assert all(ids[prompt.text] == prompt.id for prompt in shared)
    assert len(set(ids.values())) == len(ids)


def test_the_sets_of_the_shipped_results_are_unchanged() -> None:
    def digest(prompts: tuple[Prompt, ...]) -> str:
        return hashlib.sha256("\n".join(p.text for p in prompts).encode()).hexdigest()[:16]

    # Runs, benchmarks and the shipped weights' figures are of these prompts, in this order.
    assert digest(load_prompts(TRAIN, num=200, seed=42)) == "067fad134855b9df"
    held_out = load_heldout(HELDOUT, num_plain=100, num_thought=100, seed=7)
    assert digest(held_out) == "f1679cafb419f4b8"


def _repeating(distinct: int, sizes: list[int]) -> Callable[..., list[Prompt]]:
    """Stands in for the world: every text comes twice, and there are only ``distinct``."""

    def prompts(split: str, sort: str, n: int, seed: int) -> list[Prompt]:
        sizes.append(n)
        texts = [min(index // 2, distinct - 1) for index in range(n)]
        return [Prompt(id=f"{sort}-{text}", text=str(text)) for text in texts]

    return prompts


def test_repeated_texts_are_replaced_by_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(splits, "prompts", _repeating(1000, sizes))
    prompts = load_prompts(TRAIN, num=10, thought_share=0.0)
    assert sorted(prompt.id for prompt in prompts) == sorted(f"plain-{i}" for i in range(10))
    assert sizes == [10, 20]


def test_a_world_that_runs_out_gives_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(splits, "prompts", _repeating(3, sizes))
    assert len(load_prompts(TRAIN, num=10, thought_share=0.0)) == 3
    assert sizes == [10, 20, 40, 80]
