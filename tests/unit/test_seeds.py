"""Seeds are a function of their parts, in order, and of nothing else."""

from __future__ import annotations

import itertools

from alphagrpo import seeds


def test_seeds_are_the_same_on_every_machine() -> None:
    """With other numbers the same config would draw other pictures."""
    assert seeds.derive("order", 42, 0, "p1") == 1_696_071_030
    assert seeds.group_seed(42, "p1", 0) == 1_882_114_339
    assert seeds.sample_seed(42, "p1", 0, 3) == 1_760_201_478


def test_seeds_fit_a_signed_word_and_use_all_of_it() -> None:
    values = [seeds.derive(i) for i in range(2000)]
    assert len(set(values)) == 2000
    assert 0 <= min(values) < 2**22
    assert 2**31 - 2**22 < max(values) < 2**31


def test_every_part_counts_and_so_does_where_one_ends() -> None:
    parts = [("a", "bc"), ("ab", "c"), ("abc",), ("bc", "a"), ("a", "bc", 0)]
    assert len({seeds.derive(*p) for p in parts}) == len(parts)


def test_groups_and_samples_differ_by_run_prompt_visit_and_sample() -> None:
    keys = list(itertools.product((1, 2), ("p1", "p2"), (0, 1)))
    shared = {seeds.group_seed(*key) for key in keys}
    own = {seeds.sample_seed(*key, sample) for key in keys for sample in range(4)}
    assert len(shared) == 8
    assert len(own) == 32
    assert not shared & own
