"""The turns of the prompt order: where it stands, what comes next, what gave no group.

A turn is one visit of one prompt. One whose questions or scores could not be had is put off: it
comes again once, when its pass over the prompts has ended, and is then given up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from alphagrpo.types import Prompt, QuestionSet


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the order. It is a value: whoever goes on from the same one gets the same turns
    again.
    """

    position: int = 0
    """Of the next turn that has not come yet."""
    put_off: tuple[int, ...] = ()
    """Positions of turns that come again, in order."""

    def due(self, num_prompts: int) -> tuple[int, ...]:
        """Those of :attr:`put_off` whose pass of ``num_prompts`` turns has ended."""
        begun = self.position // num_prompts
        return tuple(position for position in self.put_off if position // num_prompts < begun)

    def take(self, num_prompts: int) -> tuple[int, bool, Cursor]:
        """Position of the next turn, whether it comes again, and where the order stands then."""
        if due := self.due(num_prompts):
            rest = tuple(position for position in self.put_off if position != due[0])
            return due[0], True, replace(self, put_off=rest)
        return self.position, False, replace(self, position=self.position + 1)

    def putting_off(self, positions: Iterable[int]) -> Cursor:
        """The same place, with more turns to come again."""
        return replace(self, put_off=tuple(sorted({*self.put_off, *positions})))


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One turn of one prompt, with its questions."""

    prompt: Prompt
    visit: int
    """How often the prompt came before: the number of the pass over the prompt set."""
    questions: QuestionSet
    position: int
    """In the order."""
    again: bool = False
    """Whether it had been put off; then it is not put off once more."""
    after: Cursor
    """Where the order stands after this turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedTurn:
    """A turn that gave no group, because its prompt's questions could not be had."""

    prompt: Prompt
    visit: int
    reason: str
    put_off: bool
    """Whether it comes again at the end of its pass."""
