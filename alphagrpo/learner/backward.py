"""Gradients of a step's groups: one group after the other, or several at once on a CPU's cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alphagrpo.learner.diagnostics import Diagnostics


@dataclass(frozen=True, slots=True)
class Term:
    """One loss of one group. It is backpropagated before the next one is made."""

    loss: Tensor | None
    """None where there is something to note only."""
    note: Callable[[Diagnostics], None]


Terms = Callable[[], Iterator[Term]]
"""Begins the terms of one group."""
Gradients = list[Tensor | None]


def backpropagate(
    groups: Sequence[Terms],
    parameters: Sequence[nn.Parameter],
    diagnostics: Diagnostics,
    threads: Executor | None = None,
) -> None:
    """Add the gradients of all terms to ``parameters``, and note them, in the order of ``groups``.

    With ``threads``, as many groups as there are threads are computed at a time, each with
    gradients of its own. They are summed in the order of the groups, so that a step gives the same
    bits every time; the sum of one at a time may differ from it in the last bit.
    """
    if threads is None:
        for terms in groups:
            for term in terms():
                if term.loss is not None:
                    term.loss.backward()
                term.note(diagnostics)
        return
    for gradients, notes in threads.map(lambda terms: _apart(terms, parameters), groups):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = _sum(parameter.grad, gradient)
        for note in notes:
            note(diagnostics)


def _apart(
    terms: Terms, parameters: Sequence[nn.Parameter]
) -> tuple[Gradients, list[Callable[[Diagnostics], None]]]:
    """A group's gradients, which no other thread touches, and what there is to note."""
    sums: Gradients = [None] * len(parameters)
    notes = []
    for term in terms():
        if term.loss is not None:
            gradients = torch.autograd.grad(term.loss, parameters, allow_unused=True)
            sums = [_sum(*pair) for pair in zip(sums, gradients, strict=True)]
        notes.append(term.note)
    return sums, notes


def _sum(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    if total is None or gradient is None:
        return gradient if total is None else total
    return total.add_(gradient)
