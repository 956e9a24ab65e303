"""Requests and events of the generator, for its handle, for HTTP, and in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from alphagrpo.seeds import SEED_BITS


class GenerateRequest(BaseModel):
    """What to draw, how often to refine it, and which picture to keep."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(
        min_length=1,
        examples=["a red circle left of a blue square"],
        description="What to draw; with an image, what to do to it.",
    )
    seed: int = Field(
        0, ge=0, lt=2**SEED_BITS, description="Same seed, same weights: same picture."
    )
    rounds: int = Field(0, ge=0, description="Refinements; the service has a limit of its own.")
    gate: Literal["dvreward", "none"] = Field(
        "dvreward", description="dvreward keeps the better of two pictures, none the last."
    )
    image: str | None = Field(
        None, description="PNG or JPEG as base64 to edit; of the service's size, no rounds."
    )
    stream: bool = Field(
        False, description="Server-sent events as they happen, instead of one answer."
    )


class WeightsModel(BaseModel):
    """Which weights drew a picture."""

    version: int = Field(description="Version of the policy; -1 is the model before any training.")
    source: str = Field(examples=["runs/shapes-srr/checkpoints/step-000040"])


class AnswerModel(BaseModel):
    """One question about a picture, and the verifier's answer."""

    question: str
    kind: str
    p_yes: float
    form: str = Field("yes_no", description="grade: a number from 0 to 10, p_yes is a tenth of it.")
    grade: int | None = None


class ScoreModel(BaseModel):
    """A picture's score and what it is made of."""

    reward: float
    semantic: float
    quality: float | None = Field(description="null where the program asks nothing about quality.")
    program: str
    verdicts: list[AnswerModel]


class StageEvent(BaseModel):
    """Something has begun."""

    event: Literal["stage"] = "stage"
    stage: Literal["drawing", "judging"]
    round: int


class RoundEvent(BaseModel):
    """A picture is there: the draft (round 0) or a refinement."""

    event: Literal["round"] = "round"
    round: int
    seed: int
    thought: str
    picture: str = Field(description="PNG as base64.")
    score: ScoreModel | None
    kept: bool
    refined_from: int | None
    weights: WeightsModel


class DoneEvent(BaseModel):
    """All rounds are over."""

    event: Literal["done"] = "done"
    kept_round: int
    seconds: float


Event = Annotated[StageEvent | RoundEvent | DoneEvent, Field(discriminator="event")]


class GenerateResponse(BaseModel):
    """All rounds of a request that was not streamed."""

    rounds: list[RoundEvent]
    kept_round: int
    seconds: float
