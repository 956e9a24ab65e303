"""Requests and answers of the gateway, as its OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGP4z8CAFWEXHbQSACj/P8F"
    "u7N9hAAAAAElFTkSuQmCC"
)
"""An 8 x 8 red PNG, for the examples."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class QuestionModel(_Strict):
    """One question; yes, or a high grade, is always the good answer."""

    id: str = Field(min_length=1, max_length=64, examples=["s0"])
    text: str = Field(min_length=1, max_length=1000, examples=["is there a red circle ?"])
    kind: Literal["semantic", "quality"] = "semantic"
    tag: str = Field("Existence", max_length=64)
    depends_on: list[str] = []
    form: Literal["yes_no", "grade"] = Field(
        "yes_no", description="Answered by P(yes), or by a whole number from 0 to 10."
    )


ImageField = Annotated[
    str,
    Field(
        description="PNG or JPEG as base64, with or without a data: URI head.",
        examples=[EXAMPLE_IMAGE],
    ),
]
PromptField = Annotated[str, Field(examples=["a red circle left of a blue square"])]


class DecomposeRequest(_Strict):
    """A prompt to break into questions."""

    prompt: PromptField


class DecomposeResponse(BaseModel):
    """The prompt's questions and what made them."""

    prompt: str
    questions: list[QuestionModel]
    revision: str = Field(examples=["single@4f2c91ab"])


class VerifyRequest(_Strict):
    """A picture and all questions about it; questions may be plain strings."""

    image: ImageField
    questions: list[QuestionModel | str] = Field(
        min_length=1, examples=[["is there a red circle ?"]]
    )


class RawPicture(_Strict):
    """One picture of a body of raw pixels."""

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    questions: list[QuestionModel | str] = Field(min_length=1)


class VerdictModel(BaseModel):
    """The judge's answer to one question."""

    question_id: str
    p_yes: float = Field(
        ge=0, le=1, description="P(yes) / (P(yes) + P(no)); of a grade question grade / 10."
    )
    judge: str = Field(examples=["verifier@4f2c91ab.9d1c"])
    grade: int | None = Field(
        None, ge=0, le=10, description="Of a grade question its answer, else null."
    )


class VerifyResponse(BaseModel):
    """One verdict per question, in order."""

    verdicts: list[VerdictModel]


class RawError(BaseModel):
    """Why a picture among several has no verdicts."""

    status: int = Field(description="The HTTP status it would have alone.", examples=[503])
    code: str = Field(examples=["unavailable"])
    message: str


class RawAnswer(BaseModel):
    """What became of one picture among several: its verdicts in order, or an error."""

    verdicts: list[VerdictModel] = []
    error: RawError | None = None


class RawResponse(BaseModel):
    """One answer per picture, in order."""

    answers: list[RawAnswer]


class ScoreRequest(_Strict):
    """A picture to score against its prompt; questions are made of the prompt where left out.

    Programs that word their own questions (holistic, single_question) take none.
    """

    prompt: PromptField
    image: ImageField
    questions: list[QuestionModel] | None = None
    program: str | None = Field(
        None,
        description="Name of a reward program; the gateway's own by default. /v1/info lists them.",
        examples=["dvreward"],
    )


class ScoreResponse(BaseModel):
    """Reward and what it is made of."""

    reward: float
    semantic: float
    quality: float | None = Field(description="null where the program asks no quality question")
    program: str
    aggregate: str = Field(description="How the answers became the reward.", examples=["geometric"])
    questions: list[QuestionModel]
    verdicts: list[VerdictModel]
    revision: str = Field(
        description="What the questions are from: decomposer, caller (given), or templates.",
        examples=["single@4f2c91ab"],
    )


class ErrorBody(BaseModel):
    """What went wrong: the rule, the value got, the remedy."""

    code: str = Field(examples=["bad_image"])
    message: str


class ErrorResponse(BaseModel):
    """Every answer other than 200."""

    error: ErrorBody


class HealthResponse(BaseModel):
    """Whether both services answer."""

    status: Literal["ok", "degraded"]
    services: dict[str, str] = Field(
        examples=[{"decomposer": "single@4f2c91ab", "verifier": "verifier@4f2c91ab.9d1c"}]
    )


InfoResponse = dict[str, dict[str, Any]]
