"""The form of question sets: aspects, the JSON a decomposer writes, the records people edit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alphagrpo.errors import NoQuestions
from alphagrpo.types import Question, QuestionForm, QuestionKind

SEMANTIC_TAGS = (
    "Style", "Environment", "Viewpoint", "Existence", "Count",
    "Attribute", "Action", "Spatial", "Text", "Negative",
)  # fmt: skip
"""The 10 semantic aspects (AlphaGRPO, DVReward: tagging)."""
QUALITY_TAGS = (
    "Geometry", "Anatomy", "Texture", "Coherence",
    "Lighting", "Physics", "Legibility", "Aesthetics",
)  # fmt: skip
"""The 8 quality aspects (AlphaGRPO, DVReward: quality questions)."""
TAGS: Mapping[QuestionKind, tuple[str, ...]] = {"semantic": SEMANTIC_TAGS, "quality": QUALITY_TAGS}


def question_set_schema(
    *, max_semantic: int = 40, max_quality: int = 20, max_chars: int = 300, max_needs: int = 8
) -> dict[str, Any]:
    """JSON schema of a whole question set in one answer.

    ``{"semantic": [{"q": text, "tag": aspect, "needs": [index, ...]}], "quality": [{"q", "tag"}]}``
    where ``needs`` are indices of semantic questions that must be yes for this one to make sense.
    """
    index = {"type": "integer", "minimum": 0, "maximum": max_semantic - 1}
    needs = {"needs": {"type": "array", "items": index, "maxItems": max_needs}}
    return _closed_object(
        {
            "semantic": _list_of(SEMANTIC_TAGS, max_semantic, max_chars, needs),
            "quality": _list_of(QUALITY_TAGS, max_quality, max_chars, {}),
        }
    )


def _list_of(
    tags: Sequence[str], most: int, max_chars: int, more: Mapping[str, Any]
) -> dict[str, Any]:
    text = {"type": "string", "minLength": 8, "maxLength": max_chars}
    item = _closed_object({"q": text, "tag": {"type": "string", "enum": list(tags)}, **more})
    return {"type": "array", "items": item, "minItems": 1, "maxItems": most}


def _closed_object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def parse_question_set(text: str) -> tuple[Question, ...]:
    """The questions in a decomposer's JSON answer (form of :func:`question_set_schema`).

    Raises NoQuestions where it is cut short, malformed, empty on a side or inconsistent.
    """
    try:
        value = json.loads(text)
        semantic = [_parsed(i, item, "semantic") for i, item in enumerate(value["semantic"])]
        quality = [_parsed(i, item, "quality") for i, item in enumerate(value["quality"])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoQuestions(
            f"a question set is JSON with semantic and quality questions, got {text[:120]!r} "
            f"({type(error).__name__}: {error}); reword the prompt or raise max_tokens"
        ) from error
    return checked((*semantic, *quality))


def _parsed(index: int, item: Mapping[str, Any], kind: QuestionKind) -> Question:
    needs = tuple(f"s{int(need)}" for need in item.get("needs", ()))
    return Question(
        id=f"{kind[0]}{index}",
        text=" ".join(str(item["q"]).split()),
        kind=kind,
        tag=str(item["tag"]),
        depends_on=needs,
    )


def checked(questions: Iterable[Question]) -> tuple[Question, ...]:
    """The same questions where a verifier can answer them and a program score them.

    Raises NoQuestions unless there are questions of both kinds, with text, unique ids, known
    aspects, and dependencies on other semantic questions that form no circle.
    """
    questions = tuple(questions)
    problem = _problem(questions)
    if problem:
        raise NoQuestions(
            f"a question set {problem}, got {len(questions)} questions; reword the prompt, or edit "
            "its file in the question store"
        )
    return questions


def _problem(questions: tuple[Question, ...]) -> str:
    by_id = {question.id: question for question in questions}
    if len(by_id) < len(questions):
        return "has unique ids"
    if {question.kind for question in questions} != {"semantic", "quality"}:
        return "has semantic and quality questions"
    semantic = {question.id for question in questions if question.kind == "semantic"}
    for question in questions:
        if not question.text.strip():
            return f"has no empty questions (id {question.id})"
        if question.tag not in TAGS[question.kind]:
            return f"uses the paper's aspects ({question.id} has {question.tag!r})"
        if not set(question.depends_on) <= semantic - {question.id}:
            return f"depends on its own semantic questions only (id {question.id})"
    if _has_circle(by_id):
        return "has no circular dependencies"
    return ""


def _has_circle(by_id: Mapping[str, Question]) -> bool:
    """Takes away questions whose needs are gone already until none is left, or none can go."""
    left = dict(by_id)
    while left:
        free = [key for key, question in left.items() if not set(question.depends_on) & left.keys()]
        if not free:
            return True
        for key in free:
            del left[key]
    return False


def questions_to_records(questions: Iterable[Question]) -> list[dict[str, Any]]:
    """Questions as JSON objects with the fields of :class:`alphagrpo.types.Question`."""
    return [
        {
            "id": question.id,
            "text": question.text,
            "kind": question.kind,
            "tag": question.tag,
            "depends_on": list(question.depends_on),
            "form": question.form,
        }
        for question in questions
    ]


def questions_from_records(records: Iterable[Mapping[str, Any]]) -> tuple[Question, ...]:
    """The inverse of :func:`questions_to_records`; KeyError or TypeError for other objects."""
    return tuple(
        Question(
            id=str(record["id"]),
            text=str(record["text"]),
            kind=_kind(record["kind"]),
            tag=str(record["tag"]),
            depends_on=tuple(str(need) for need in record.get("depends_on", ())),
            form=_form(record.get("form", "yes_no")),
        )
        for record in records
    )


def _form(value: Any) -> QuestionForm:
    if value == "yes_no":
        return "yes_no"
    if value == "grade":
        return "grade"
    raise TypeError(f"a question's form is yes_no or grade, got {value!r}")


def _kind(value: Any) -> QuestionKind:
    if value == "semantic":
        return "semantic"
    if value == "quality":
        return "quality"
    raise TypeError(f"a question's kind is semantic or quality, got {value!r}")
