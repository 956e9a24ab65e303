"""Grades: whole numbers from 0 to 10, chosen by a model among exactly these."""

from __future__ import annotations

from alphagrpo.errors import ServiceError

BEST = 10
CHOICES = tuple(str(grade) for grade in range(BEST + 1))
"""All answers to a grade question, as they follow its prompt."""
MAX_TOKENS = 8
"""Room for two digits in any tokenizer, a leading space and an end token."""


def parse_grade(text: str) -> int:
    """The grade 0 .. 10 that ``text`` is. Raises ServiceError, and never gives 0, for other text.

    Only the choices themselves count: Python would also read "+7", "0_7" and other scripts' digits.
    """
    word = text.strip()
    if word not in CHOICES:
        raise ServiceError(
            f"a grade is a whole number from 0 to {BEST}, the judge answered {text[:80]!r}; its "
            "engine must limit answers to the request's choices"
        )
    return int(word)
