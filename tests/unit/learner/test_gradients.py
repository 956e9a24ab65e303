"""The step's sum: one order, whichever group was replayed first."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from alphagrpo.learner.gradients import Gradients, GradientSum, divided, taken_gradients

PLACES = (0, 1, 2, 3)


def gradient(place: int) -> Gradients:
    """Numbers whose sum depends on the order; the second parameter has one at odd places only."""
    values = torch.tensor([1e8, 1.0, -1e8, 3.0]).roll(place) * (1 + place / 7)
    return [values, values[:2] / 3 if place % 2 else None]


def in_order() -> list[Tensor | None]:
    first, second = gradient(0)[0].clone(), gradient(1)[1].clone()
    for place in PLACES[1:]:
        first += gradient(place)[0]
    second += gradient(3)[1]
    return [first, second]


def test_any_order_of_arrival_gives_the_bits_of_prompt_order() -> None:
    expected = in_order()
    for order in itertools.permutations(PLACES):
        total, there = GradientSum(), set()
        for place in order:
            total.add(place, gradient(place))
            there.add(place)
            total.settle(next(p for p in itertools.count() if p not in there))
        found = total.take()
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), order


def test_what_is_settled_keeps_no_gradient_of_its_own() -> None:
    total = GradientSum()
    for place in (2, 0, 1):
        total.add(place, gradient(place))
    total.settle(2)
    assert list(total._apart) == [2]
    total.settle(3)
    assert not total._apart


def test_a_place_that_never_comes_holds_up_nothing() -> None:
    total = GradientSum()
    for place in (3, 1):
        total.add(place, gradient(place))
    total.settle(4)
    expected = gradient(1)[0] + gradient(3)[0]
    assert torch.equal(total.take()[0], expected)
    assert total.take() is None, "the sum is taken once"


def test_half_precision_gradients_are_summed_in_float32() -> None:
    total = GradientSum()
    for place in range(300):
        total.add(place, [torch.ones(1, dtype=torch.bfloat16)])
        total.settle(place + 1)
    assert total.take()[0].tolist() == [300.0], "bfloat16 would have stopped at 256"


def test_taken_gradients_leave_none() -> None:
    weight, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    (weight * 3).sum().backward()
    taken = taken_gradients([weight, idle])
    assert taken[0].tolist() == [3.0, 3.0]
    assert taken[1] is None
    assert weight.grad is None
    assert divided(taken, 4.0)[0].tolist() == [0.75, 0.75]
