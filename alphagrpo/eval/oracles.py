"""Held-out judges of worlds that have one. They look at evaluation pictures only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.types import Prompt, Question

    Oracle = Callable[[Prompt, NDArray[np.uint8]], "Opinion"]
    """What a world's oracle makes of a picture [H, W, 3] drawn for a prompt of that world."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """The oracle's answers about one picture."""

    answers: tuple[tuple[Question, bool], ...]
    """Each reference question of the prompt, and whether the picture answers it yes."""
    all_right: bool
    """All that was asked for is there."""
    strict: bool
    """All right, and nothing else is there."""


def oracle_for(source: str) -> Oracle | None:
    """The oracle of a prompt source, or None where its world has none."""
    return shapes_oracle if source.startswith("shapes:") else None


def shapes_oracle(prompt: Prompt, pixels: NDArray[np.uint8]) -> Opinion:
    """The pixel oracle of the miniature world; ConfigError for a prompt that is not of it."""
    from alphagrpo.shapes.oracle import judge, read
    from alphagrpo.shapes.questions import reference_questions
    from alphagrpo.shapes.splits import spec_of

    spec = spec_of(prompt)
    judgement = judge(spec, read(pixels))
    answers = tuple((q, judgement.answers[q.id]) for q in reference_questions(spec))
    return Opinion(answers=answers, all_right=judgement.all_right, strict=judgement.strict)
