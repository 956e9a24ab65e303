"""A world's oracle as a verifier: it answers any question of the world's grammar from pixels.

For looking at a run from outside. It is never asked for a reward that trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alphagrpo.errors import ConfigError, ServiceError
from alphagrpo.types import Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.ports import Verifier
    from alphagrpo.types import Question

SHAPES_ORACLE = "oracle@shapes"
"""What its verdicts name as their judge."""


class ShapesVerifier:
    """:class:`alphagrpo.ports.Verifier` by the pixel oracle of the miniature world."""

    async def verify(
        self, pixels: NDArray[np.uint8], questions: Sequence[Question]
    ) -> tuple[Verdict, ...]:
        """P(yes) of 1 or 0 for each question about ``pixels`` [48, 48, 3].

        Raises BadImage for another picture, ServiceError for a question that the world's grammar
        does not have.
        """
        from alphagrpo.shapes.oracle import answer, read

        reading = read(pixels)
        try:
            answers = [answer(question.text, reading) for question in questions]
        except ConfigError as error:
            raise ServiceError(f"the oracle cannot answer: {error}") from error
        return tuple(
            Verdict(question_id=question.id, p_yes=float(yes), judge=SHAPES_ORACLE)
            for question, yes in zip(questions, answers, strict=True)
        )


def world_verifier(source: str) -> Verifier | None:
    """The oracle of a prompt source as a verifier, or None where its world has none."""
    return ShapesVerifier() if source.startswith("shapes:") else None
