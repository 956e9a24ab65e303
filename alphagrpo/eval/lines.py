"""What is written down of each held-out prompt: one line, its judges' opinions, its rounds.

JSON keys are the fields' names (:mod:`alphagrpo.json_records`). What could not be had is None,
never 0; fields that older files lack have a default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from alphagrpo.json_records import INLINE, LEFT_OUT
from alphagrpo.types import QuestionKind, Sort

Measure = Literal["per_question", "all_right", "strict", "extra", "dvreward"]
"""What is measured of a picture; fields of these names have its values, figures their means."""
MEASURES: tuple[Measure, ...] = get_args(Measure)
Chain = Literal["last", "gated"]
"""How rounds go on: from the newest picture, or from the better one by the verifier's reward."""
CHAINS: tuple[Chain, ...] = get_args(Chain)


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleAnswer:
    """The oracle's answer to one reference question of the prompt."""

    question: str
    yes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierAnswer:
    """The verifier's answer to one of the reward program's questions."""

    question: str
    kind: QuestionKind
    p_yes: float
    """In [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What oracle and verifier say of one picture."""

    thought: str
    """What the policy wrote before it drew."""
    picture: str
    """Content hash, under which the picture is kept if it is."""
    oracle: tuple[OracleAnswer, ...] = ()
    per_question: float | None = None
    """Share of the oracle's questions answered yes."""
    all_right: bool | None = None
    """All that was asked for is there."""
    strict: bool | None = None
    """All right, and nothing else is there."""
    extra: bool | None = None
    """More things than were asked for."""
    verdicts: tuple[VerifierAnswer, ...] = ()
    dvreward: float | None = None
    """The reward program's value of the verdicts."""
    invalid_reason: str = ""
    """Why there is no reward although a verifier was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a refinement: the picture it began from, or the one it drew."""

    picture: str
    all_right: bool | None
    per_question: float | None
    dvreward: float | None

    @classmethod
    def of(cls, opinion: Opinion) -> Side:
        """The part of an opinion that two sides are compared by."""
        return cls(
            picture=opinion.picture,
            all_right=opinion.all_right,
            per_question=opinion.per_question,
            dvreward=opinion.dvreward,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The picture a chain holds after a round."""

    picture: str
    per_question: float | None
    all_right: bool | None
    strict: bool | None
    extra: bool | None
    dvreward: float | None

    @classmethod
    def of(cls, opinion: Opinion) -> Held:
        """Content hash and measures of the picture an opinion is about."""
        return cls(
            picture=opinion.picture,
            per_question=opinion.per_question,
            all_right=opinion.all_right,
            strict=opinion.strict,
            extra=opinion.extra,
            dvreward=opinion.dvreward,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """One round of one chain."""

    kept: bool
    """Whether the chain holds the refined picture now."""
    reflection: str
    """What the policy wrote about the picture it began from."""
    defects: int | None
    """How many that picture really has."""
    named: bool | None
    """Whether the reflection names one of them; None where there is none."""
    tried: Side
    """The refined picture, kept or not."""
    before: Side
    """The picture it began from."""
    held: Held = field(metadata=INLINE)

    @property
    def improved(self) -> bool | None:
        """Whether the share of right answers rose, kept or not; None where nobody could say."""
        return None if (gain := self._gain()) is None else gain > 0

    @property
    def harmed(self) -> bool | None:
        """Whether the share of right answers fell, kept or not; None where nobody could say."""
        return None if (gain := self._gain()) is None else gain < 0

    def _gain(self) -> float | None:
        before, after = self.before.per_question, self.tried.per_question
        return None if before is None or after is None else after - before


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutLine:
    """One held-out prompt with its first picture and what came of refining it."""

    id: str
    """The prompt's."""
    sort: Sort
    prompt: str
    seed: int | None = None
    """Of the first picture."""
    version: int | None = None
    """Of the policy that drew it."""
    opinion: Opinion = field(metadata=INLINE)
    """Of the first picture."""
    rounds: tuple[Mapping[Chain, Refinement], ...] = field(default=(), metadata=LEFT_OUT)
    """One entry per round, in order; empty where nothing was refined."""


def known(records: Iterable[Any], name: Measure | str) -> list[float]:
    """The values of a field over records, as numbers; those that could not be had left out."""
    values = (getattr(record, name) for record in records)
    return [float(value) for value in values if value is not None]
