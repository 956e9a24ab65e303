"""Instructions and answer schemas of the ``dsg`` program; all answers are JSON."""

from __future__ import annotations

from typing import Any

from alphagrpo.judging.questions import QUALITY_TAGS, SEMANTIC_TAGS

SYSTEM = "You help to check pictures against the text they were made from. Answer with JSON only."

TUPLES = (
    "List every atomic fact the text below states about the picture. One fact holds one thing: "
    "that an object is there, how many there are, one attribute of one object, one relation "
    "between two, an action, a place, a style, a point of view, written words, or that something "
    "is absent. Use only what the text states.\nText: {prompt}"
)
DEPENDENCIES = (
    "Below are numbered facts about a picture. For each fact give the numbers of the facts that "
    "must hold before it can be judged at all: an attribute or relation needs its objects to be "
    "there. Facts that stand alone need none.\nText: {prompt}\nFacts:\n{facts}"
)
QUESTIONS = (
    "Write for each numbered fact one question about the picture that is answered yes when the "
    "fact holds and no when it does not. Keep the order.\nText: {prompt}\nFacts:\n{facts}"
)
VALIDATE = (
    "Is the question below a fair check of a picture made from the text? It is fair if the text "
    "strictly requires a yes, if it invents no attribute, and if it does not demand an action "
    "where the text only names a thing that may suggest one.\nText: {prompt}\nQuestion: {question}"
)
TAG = (
    "Which aspect of a picture does the question ask about? Choose one of: "
    + ", ".join(SEMANTIC_TAGS)
    + ".\nQuestion: {question}"
)
QUALITY = (
    "Write yes/no questions about how well a picture made from the text is drawn, as opposed to "
    "what it shows. Each asks about one aspect ("
    + ", ".join(QUALITY_TAGS)
    + ") of something the text asks for, and yes is the good answer. Add no demands of your own: "
    "where the text asks for something unreal, the unreal is the standard.\nText: {prompt}\n"
    "What it must show:\n{facts}"
)


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _strings(most: int) -> dict[str, Any]:
    return {
        "type": "array",
        "items": {"type": "string", "minLength": 3, "maxLength": 300},
        "minItems": 1,
        "maxItems": most,
    }


_REASON = {"type": "string", "maxLength": 300}
MAX_FACTS = 40
TUPLES_SCHEMA = _object(facts=_strings(MAX_FACTS))
QUESTIONS_SCHEMA = _object(questions=_strings(MAX_FACTS))
DEPENDENCIES_SCHEMA = _object(
    needs={
        "type": "array",
        "items": {"type": "array", "items": {"type": "integer", "minimum": 1}, "maxItems": 8},
        "maxItems": MAX_FACTS,
    }
)
VALIDATE_SCHEMA = _object(reason=_REASON, is_valid={"type": "boolean"})
TAG_SCHEMA = _object(reason=_REASON, aspect_tag={"type": "string", "enum": list(SEMANTIC_TAGS)})
QUALITY_SCHEMA = _object(
    questions={
        "type": "array",
        "items": _object(
            question={"type": "string", "minLength": 8, "maxLength": 300},
            aspect={"type": "string", "enum": list(QUALITY_TAGS)},
        ),
        "minItems": 1,
        "maxItems": 20,
    }
)
