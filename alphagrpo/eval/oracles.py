"""Held-out judges of worlds that have one. They look at evaluation pictures only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.types import Prompt, Question

    Oracle = Callable[[Prompt, NDArray[np.uint8]], "OracleOpinion"]
    """What a world's oracle makes of a picture [H, W, 3] drawn for a prompt of that world."""
    ReflectionOracle = Callable[[Prompt, NDArray[np.uint8], str], "ReflectionCheck"]
    """Compares a reflection on a picture [H, W, 3] of a prompt with what is really wrong there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleOpinion:
    """The oracle's answers about one picture."""

    answers: tuple[tuple[Question, bool], ...]
    """Each reference question of the prompt, and whether the picture answers it yes."""
    all_right: bool
    """All that was asked for is there."""
    strict: bool
    """All right, and nothing else is there."""
    extra: bool
    """There are more things than were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReflectionCheck:
    """A reflection against what is really wrong with its picture; all None where nobody knows."""

    defects: int | None = None
    """How many there are."""
    named: bool | None = None
    """Whether the reflection names one; None where there is none to name."""


def oracle_for(source: str) -> Oracle | None:
    """The oracle of a prompt source, or None where its world has none."""
    return shapes_oracle if source.startswith("shapes:") else None


def reflection_oracle_for(source: str) -> ReflectionOracle | None:
    """Who knows what is wrong with pictures of a source, or None."""
    return shapes_reflection if source.startswith("shapes:") else None


def shapes_reflection(prompt: Prompt, pixels: NDArray[np.uint8], thought: str) -> ReflectionCheck:
    """The defects the pixel oracle sees, and whether ``thought`` names one of them."""
    from alphagrpo.shapes.edits import defects, names_a_defect
    from alphagrpo.shapes.oracle import read
    from alphagrpo.shapes.splits import spec_of

    real = defects(spec_of(prompt), read(pixels))
    named = names_a_defect(thought, real) if real else None
    return ReflectionCheck(defects=len(real), named=named)


def shapes_oracle(prompt: Prompt, pixels: NDArray[np.uint8]) -> OracleOpinion:
    """The pixel oracle of the miniature world; ConfigError for a prompt that is not of it."""
    from alphagrpo.shapes.oracle import judge, read
    from alphagrpo.shapes.questions import reference_questions
    from alphagrpo.shapes.splits import spec_of

    spec = spec_of(prompt)
    judgement = judge(spec, read(pixels))
    answers = tuple((q, judgement.answers[q.id]) for q in reference_questions(spec))
    return OracleOpinion(
        answers=answers,
        all_right=judgement.all_right,
        strict=judgement.strict,
        extra=judgement.extra,
    )
