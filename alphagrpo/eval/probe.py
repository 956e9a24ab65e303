"""Which held-out prompts are looked at while a run goes on: few, and the same ones every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from alphagrpo.data import sort_of
from alphagrpo.seeds import derive
from alphagrpo.types import SORTS

if TYPE_CHECKING:
    from alphagrpo.eval.lines import HeldOutLine, Opinion
    from alphagrpo.types import Prompt

PROMPT_SET = "heldout/prompt_set"
"""The key of :func:`prompt_set` in a step's metrics."""
NOT_KNOWN = (-1.0, -1.0, -1.0)


def probe_prompts(
    prompts: Sequence[Prompt], before: Iterable[HeldOutLine], count: int
) -> list[Prompt]:
    """``count`` prompts of each sort that stand for all of them, or all where there are fewer.

    They are evenly spread over the prompts in the order of what came of them ``before``, so that
    as large a share of them was right as of all prompts. Without an evaluation before they are
    spread over the prompts in their own order.
    """
    outcomes = {line.id: _outcome(line.opinion) for line in before}
    chosen: list[Prompt] = []
    for sort in SORTS:
        members = [prompt for prompt in prompts if sort_of(prompt) == sort]
        members.sort(key=lambda prompt: outcomes.get(prompt.id, NOT_KNOWN))
        number = min(count, len(members))
        # The middle of each of ``number`` equal parts.
        chosen += [members[(2 * i + 1) * len(members) // (2 * number)] for i in range(number)]
    return chosen


def prompt_set(ids: Iterable[str]) -> int:
    """A number by which two sets of prompts are told apart."""
    return derive("prompt set", *sorted(ids))


def _outcome(opinion: Opinion) -> tuple[float, ...]:
    values = (opinion.all_right, opinion.per_question, opinion.dvreward)
    return tuple(-1.0 if value is None else float(value) for value in values)
