"""The sum of a step's gradients: the same bits whichever group was replayed first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Gradients = list[Tensor | None]
"""One per parameter, in order; None where a parameter has none."""


class GradientSum:
    """Adds up gradients of groups in the order of their places.

    One that comes before an earlier one is kept apart until that one is there, or is known not to
    come. Sums are float32 whatever the parameters are.
    """

    def __init__(self) -> None:
        self._total: Gradients | None = None
        self._apart: dict[int, Gradients] = {}

    def add(self, place: int, gradients: Gradients) -> None:
        """The gradients of the group at ``place``, which the sum may keep and change."""
        self._apart[place] = gradients

    def settle(self, below: int) -> None:
        """All places below this one are there, or will never come: add them up."""
        for place in sorted(place for place in self._apart if place < below):
            self._include(self._apart.pop(place))

    def take(self) -> Gradients | None:
        """The whole sum, which is then forgotten; None where nothing was added."""
        for place in sorted(self._apart):
            self._include(self._apart.pop(place))
        total, self._total = self._total, None
        return total

    def _include(self, gradients: Gradients) -> None:
        if self._total is None:
            self._total = [None if g is None else g.float() for g in gradients]
            return
        for index, gradient in enumerate(gradients):
            own = self._total[index]
            if own is None or gradient is None:
                self._total[index] = own if gradient is None else gradient.float()
            else:
                own.add_(gradient)


def taken_gradients(parameters: Sequence[nn.Parameter]) -> Gradients:
    """What backward passes have left in the parameters, which have no gradient afterwards."""
    gradients: Gradients = []
    for parameter in parameters:
        gradients.append(parameter.grad)
        parameter.grad = None
    return gradients


@torch.no_grad()
def divided(gradients: Gradients, divisor: float) -> Gradients:
    """The same tensors, divided in place."""
    for gradient in gradients:
        if gradient is not None:
            gradient.div_(divisor)
    return gradients
