"""Reference question sets, and the compact JSON in which a decomposer writes a set.

Tags are AlphaGRPO's 10 semantic and 8 quality aspects (DVReward: decomposition and tagging). Each
set asks for the total: with existence questions alone a policy soon draws objects nobody asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from alphagrpo.errors import NoQuestions
from alphagrpo.shapes.grammar import QUALITY_TEXT
from alphagrpo.shapes.language import NUMBERS, article, plural
from alphagrpo.shapes.specs import Item, Spec
from alphagrpo.shapes.world import KINDS
from alphagrpo.types import Question, QuestionKind, QuestionSet

SEMANTIC_TAGS = (
    "Style", "Environment", "Viewpoint", "Existence", "Count",
    "Attribute", "Action", "Spatial", "Text", "Negative",
)  # fmt: skip
QUALITY_TAGS = (
    "Geometry", "Anatomy", "Texture", "Coherence",
    "Lighting", "Physics", "Legibility", "Aesthetics",
)  # fmt: skip
MAX_SEMANTIC, MAX_QUALITY = 6, 4
REVISION = "reference@shapes-1"

_Draft = tuple[str, str, tuple[int, ...]]


def _exists(item: Item, coloured: bool = True) -> str:
    thing = f"{item.colour} {item.kind}" if coloured else item.kind
    return f"is there {article(thing)} {thing} ?"


def _single_or_count(item: Item) -> list[_Draft]:
    if item.number == 1:
        first = (_exists(item, coloured=False), "Existence", ())
        return [first, (f"is the {item.kind} {item.colour} ?", "Attribute", (0,))]
    kinds = plural(item.kind)
    first = (f"are there exactly {NUMBERS[item.number]} {kinds} ?", "Count", ())
    return [first, (f"are the {kinds} {item.colour} ?", "Attribute", (0,))]


def _several(spec: Spec) -> list[_Draft]:
    drafts: list[_Draft] = []
    for item in spec.items:
        if item.number == 1:
            drafts.append((_exists(item), "Existence", ()))
        else:
            things = f"{NUMBERS[item.number]} {item.colour} {plural(item.kind)}"
            drafts.append((f"are there exactly {things} ?", "Count", ()))
    if spec.relation is not None:
        first, second = (f"the {item.colour} {item.kind}" for item in spec.items)
        drafts.append((f"is {first} {spec.relation} {second} ?", "Spatial", (0, 1)))
    return drafts


def total_question(count: int) -> str:
    """``are there exactly two objects in total ?``"""
    if count == 1:
        return "is there exactly one object in total ?"
    return f"are there exactly {NUMBERS[count]} objects in total ?"


def _semantic(spec: Spec) -> list[_Draft]:
    drafts = _single_or_count(spec.items[0]) if len(spec.items) == 1 else _several(spec)
    drafts.append((total_question(spec.total), "Count", ()))
    if spec.background is not None:
        drafts.append((f"is the background {spec.background} ?", "Environment", ()))
    if spec.absent is not None:
        thing = spec.absent if spec.absent in KINDS else f"{spec.absent} object"
        drafts.append((f"is there no {thing} ?", "Negative", ()))
    return drafts


def _quality(spec: Spec) -> list[tuple[str, str]]:
    pairs = [(QUALITY_TEXT["geometry"], "Geometry"), (QUALITY_TEXT["texture"], "Texture")]
    if len(spec.items) == 1 or spec.background is not None:
        pairs.append((QUALITY_TEXT["coherence"], "Coherence"))
    return pairs


def reference_questions(spec: Spec) -> tuple[Question, ...]:
    """The 5 to 8 questions a right decomposition asks; in all of them yes is good."""
    semantic = [
        Question(
            id=f"s{i}", text=text, kind="semantic", tag=tag,
            depends_on=tuple(f"s{need}" for need in needs),
        )
        for i, (text, tag, needs) in enumerate(_semantic(spec))
    ]  # fmt: skip
    quality = [
        Question(id=f"q{i}", text=text, kind="quality", tag=tag)
        for i, (text, tag) in enumerate(_quality(spec))
    ]
    return (*semantic, *quality)


def reference_question_set(prompt: str, spec: Spec) -> QuestionSet:
    """The reference questions as the record a decomposer hands back."""
    return QuestionSet(prompt=prompt, questions=reference_questions(spec), revision=REVISION)


def _item_schema(tags: Sequence[str], needs: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "q": {"type": "string", "minLength": 8, "maxLength": 80},
        "tag": {"type": "string", "enum": list(tags)},
    }
    if needs:
        index = {"type": "integer", "minimum": 0, "maximum": MAX_SEMANTIC - 1}
        properties["needs"] = {"type": "array", "items": index, "maxItems": 2}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list_schema(tags: Sequence[str], most: int, needs: bool) -> dict[str, Any]:
    return {"type": "array", "items": _item_schema(tags, needs), "minItems": 1, "maxItems": most}


QUESTION_SET_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "semantic": _list_schema(SEMANTIC_TAGS, MAX_SEMANTIC, needs=True),
        "quality": _list_schema(QUALITY_TAGS, MAX_QUALITY, needs=False),
    },
    "required": ["semantic", "quality"],
    "additionalProperties": False,
}
"""JSON schema of a decomposer's answer, for structured output. ``needs`` are indices of semantic
questions; the aspect lists are the paper's."""


def questions_to_json(questions: Sequence[Question]) -> str:
    """A question set as compact JSON, without spaces between its parts."""
    semantic = [
        {"q": q.text, "tag": q.tag, "needs": [int(need[1:]) for need in q.depends_on]}
        for q in questions
        if q.kind == "semantic"
    ]
    quality = [{"q": q.text, "tag": q.tag} for q in questions if q.kind == "quality"]
    return json.dumps({"semantic": semantic, "quality": quality}, separators=(",", ":"))


def questions_from_json(text: str) -> tuple[Question, ...]:
    """The inverse of :func:`questions_to_json`.

    Raises NoQuestions where the text is no JSON of the schema's form, or a side is empty.
    """
    try:
        value = json.loads(text)
        semantic = [_question(i, item, "semantic") for i, item in enumerate(value["semantic"])]
        quality = [_question(i, item, "quality") for i, item in enumerate(value["quality"])]
        ids = {question.id for question in semantic}
        broken = [q.id for q in semantic if not set(q.depends_on) <= ids - {q.id}]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoQuestions(
            f"a question set is JSON with semantic and quality questions, got {text[:120]!r} "
            f"({type(error).__name__}: {error}); ask again with structured output"
        ) from error
    if not semantic or not quality or broken:
        raise NoQuestions(
            "a question set has semantic and quality questions that need only one another, got "
            f"{len(semantic)}, {len(quality)} and unknown needs of {broken}; reword the prompt"
        )
    return (*semantic, *quality)


def _question(index: int, item: dict[str, Any], kind: QuestionKind) -> Question:
    tags = SEMANTIC_TAGS if kind == "semantic" else QUALITY_TAGS
    text, tag = item["q"], item["tag"]
    if not isinstance(text, str) or not text.strip() or tag not in tags:
        raise ValueError(f"question {index} has text {text!r} and {kind} tag {tag!r}")
    needs = tuple(f"s{int(need)}" for need in item.get("needs", ()))
    return Question(id=f"{kind[0]}{index}", text=text, kind=kind, tag=tag, depends_on=needs)
