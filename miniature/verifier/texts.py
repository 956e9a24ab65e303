"""Questions beyond the grammar: about a whole prompt, and grades from 0 to 10.

The reward programs that decomposition is compared with ask these very texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from alphagrpo.judging.grades import BEST
from alphagrpo.shapes.grammar import QUALITY_TEXT, Reading
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.specs import Spec
from miniature.verifier.questions import predicate_of

WHOLE_TEMPLATE = 'does the picture show exactly this : "{prompt}" ?'
"""Answered " yes" or " no": whether every semantic reference question of the prompt holds."""
GRADE_CONTENT_TEMPLATE = 'from 0 to 10 , how well does the picture show this : "{prompt}" ?'
"""Answered by the :func:`grade` of :func:`semantic_truths`."""
GRADE_QUALITY_TEXT = "from 0 to 10 , how clean is the picture ?"
"""Answered by the number of :func:`quality_grade`."""


def instructions() -> tuple[str, ...]:
    """The fixed beginnings of the three texts; each is one token of the verifier's tokenizer."""
    templates = (WHOLE_TEMPLATE, GRADE_CONTENT_TEMPLATE)
    return (*(template.split("{prompt}")[0] for template in templates), GRADE_QUALITY_TEXT)


def grade(held: Sequence[bool]) -> int:
    """10 times the share of questions that hold, rounded (a half to the even number)."""
    return round(BEST * sum(held) / len(held))


def semantic_truths(spec: Spec, reading: Reading) -> list[bool]:
    """Whether each semantic reference question of ``spec`` holds, the total included."""
    questions = reference_questions(spec)
    return [predicate_of(q.text).holds(reading) for q in questions if q.kind == "semantic"]


def quality_grade(reading: Reading) -> int:
    """0, 3, 7 or 10: how many of the three quality questions hold."""
    return grade([predicate_of(text).holds(reading) for text in QUALITY_TEXT.values()])
