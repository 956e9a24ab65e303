"""Pictures, questions and verdicts between what callers send and the mesh's records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import Field, TypeAdapter, ValidationError

from alphagrpo.errors import ConfigError, MeshError
from alphagrpo.images import ImageLimits, raw_image
from alphagrpo.judging.questions import questions_from_records, questions_to_records
from alphagrpo.types import Question, Verdict
from services import raw_picture
from services.bundles import only_mesh_errors
from services.gateway import models
from services.raw_picture import MOST_PICTURES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIXELS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {raw_picture.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""The body of raw pixels, for the OpenAPI document."""


_HEAD = TypeAdapter(
    Annotated[list[models.RawPicture], Field(min_length=1, max_length=MOST_PICTURES)]
)


def raw_pictures(
    body: bytes, limits: ImageLimits, most: int
) -> list[tuple[NDArray[np.uint8], tuple[Question, ...]]]:
    """The pictures of a body of raw pixels, uint8 [H, W, 3], each with at most ``most`` questions.

    Raises RequestValidationError for another first line, BadImage for pixels that do not fit it,
    ConfigError for questions that cannot be asked.
    """
    head, data = raw_picture.unpack(body)
    try:
        listed = _HEAD.validate_json(head)
    except ValidationError as error:
        issues = [{**issue, "loc": ("body", *issue["loc"])} for issue in error.errors()]
        raise RequestValidationError(issues) from None
    pictures, start = [], 0
    for i, one in enumerate(listed):
        # The last takes what is left, so that bytes too many are told.
        end = start + 3 * one.height * one.width if i + 1 < len(listed) else len(data)
        pixels = raw_image(data[start:end], one.height, one.width, limits)
        pictures.append((pixels, as_questions(one.questions, most)))
        start = end
    return pictures


def as_questions(items: Sequence[models.QuestionModel | str], most: int) -> tuple[Question, ...]:
    """At most ``most`` questions with ids of their own; ConfigError for others."""
    if len(items) > most:
        raise ConfigError(f"a picture is asked at most {most} questions, got {len(items)}; split")
    records = [
        item.model_dump()
        if isinstance(item, models.QuestionModel)
        else {"id": f"s{i}", "text": item, "kind": "semantic", "tag": "Existence"}
        for i, item in enumerate(items)
    ]
    questions = questions_from_records(records)
    if len({question.id for question in questions}) < len(questions):
        raise ConfigError("questions have ids of their own, some share one; rename them")
    return questions


def question_models(questions: Sequence[Question]) -> list[models.QuestionModel]:
    """Questions as they are sent."""
    return [models.QuestionModel(**record) for record in questions_to_records(questions)]


def verdict_models(verdicts: Sequence[Verdict]) -> list[models.VerdictModel]:
    """Verdicts as they are sent."""
    return [
        models.VerdictModel(question_id=v.question_id, p_yes=v.p_yes, judge=v.judge, grade=v.grade)
        for v in verdicts
    ]


def verify_response(verdicts: Sequence[Verdict]) -> Response:
    """Verdicts as an answer; written here, since FastAPI would check and copy them all again."""
    answer = models.VerifyResponse(verdicts=verdict_models(verdicts))
    return Response(answer.model_dump_json(), media_type="application/json")


def told_or_error(
    answers: Sequence[tuple[Verdict, ...] | BaseException],
) -> list[tuple[Verdict, ...] | MeshError]:
    """Answers about several pictures; raises the first error where there is nothing else, and any
    that is none of the mesh's.
    """
    told = only_mesh_errors(answers)
    if all(isinstance(answer, MeshError) for answer in told):
        raise cast(MeshError, told[0])
    return told


def raw_response(answers: list[models.RawAnswer]) -> Response:
    """Answers about several pictures, written as :func:`verify_response` does."""
    answered = models.RawResponse(answers=answers)
    return Response(answered.model_dump_json(), media_type="application/json")
