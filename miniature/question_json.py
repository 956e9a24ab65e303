"""The compact JSON in which the miniature decomposer writes a question set."""

from __future__ import annotations

import json
from collections.abc import Sequence

from alphagrpo.types import Question


def questions_to_json(questions: Sequence[Question]) -> str:
    """A question set without spaces between its parts.

    :func:`alphagrpo.judging.questions.parse_question_set` is the inverse.
    """
    semantic = [
        {"q": q.text, "tag": q.tag, "needs": [int(need[1:]) for need in q.depends_on]}
        for q in questions
        if q.kind == "semantic"
    ]
    quality = [{"q": q.text, "tag": q.tag} for q in questions if q.kind == "quality"]
    return json.dumps({"semantic": semantic, "quality": quality}, separators=(",", ":"))
