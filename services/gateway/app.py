"""The gateway: the services over HTTP, for people and for trainers in other clusters.

``import_path: services.gateway:build``. It holds no model: it reaches the other applications
by handle and gives their errors as HTTP statuses, each with rule, value and remedy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from ray import serve
from ray.serve.exceptions import BackPressureError

from alphagrpo import ports
from alphagrpo.errors import (
    BadImage,
    ConfigError,
    DeadlineExceeded,
    MeshError,
    NoQuestions,
    Overloaded,
    ServiceError,
    ServiceUnavailable,
)
from alphagrpo.images import ImageLimits, decode_base64_image
from alphagrpo.rewards.judging import judge_picture
from alphagrpo.rewards.programs import load_reward_program, reward_program, reward_programs
from alphagrpo.types import Verdict
from services.client import connect_decomposer, connect_verifier
from services.exposure import check_exposure, listening_host
from services.gateway import models
from services.gateway.callers import callers_of
from services.gateway.generate import Generator, add_generate
from services.gateway.guard import Guard, Recorder
from services.gateway.score import as_prompt, question_set, score_response
from services.gateway.verify import (
    PIXELS_BODY,
    as_questions,
    question_models,
    raw_pictures,
    raw_response,
    told_or_error,
    verdict_models,
    verify_response,
)
from services.generator.client import connect_generator
from services.metrics import GatewayMetrics
from services.raw_picture import MOST_PICTURES
from services.settings import GatewaySettings, parse_settings

_STATUS: tuple[tuple[type[MeshError], int, str], ...] = (
    (BadImage, 400, "bad_image"),
    (NoQuestions, 422, "no_questions"),
    (ConfigError, 422, "invalid_request"),
    (DeadlineExceeded, 504, "deadline_exceeded"),
    (ServiceUnavailable, 503, "unavailable"),
    (ServiceError, 502, "service_error"),
)
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": models.ErrorResponse} for status in (400, 401, 413, 422, 429, 502, 503, 504)
}
_FULL = (BackPressureError, Overloaded)
_TOO_MANY = 429
_PROBE_S = 5.0


class Decomposer(ports.Decomposer, Protocol):
    """The port, and who is behind it."""

    async def info(self) -> Mapping[str, Any]:
        """Model and revision."""
        ...


class Verifier(ports.Verifier, Protocol):
    """The port, and who is behind it."""

    async def info(self) -> Mapping[str, Any]:
        """Model and revision."""
        ...


def create_app(
    decomposer: Decomposer,
    verifier: Verifier,
    settings: GatewaySettings,
    generator: Generator | None = None,
    make_recorder: Callable[[Sequence[str]], Recorder] | None = None,
) -> FastAPI:
    """The HTTP application over any services.

    ``make_recorder`` is given the callers' names. Raises ConfigError for a token that is missing or
    of white space and for an unknown reward program.
    """
    app = FastAPI(
        title="AlphaGRPO judges",
        summary="Questions from prompts, verdicts on pictures, rewards from both.",
        version="1",
    )
    limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    _add_routes(app, decomposer, verifier, settings, limits)
    add_generate(app, generator, _ERRORS, _mesh_error)
    _add_probes(app, decomposer, verifier, settings)
    _add_error_handlers(app)
    callers = callers_of(settings)
    app.add_middleware(
        Guard,
        callers=callers,
        max_body_bytes=settings.max_body_bytes,
        recorder=make_recorder(callers.names) if make_recorder else None,
    )
    return app


def _add_routes(
    app: FastAPI,
    decomposer: Decomposer,
    verifier: Verifier,
    settings: GatewaySettings,
    limits: ImageLimits,
) -> None:
    default_program = load_reward_program(settings.reward_program)

    @app.post("/v1/decompose", responses=_ERRORS)
    async def decompose(request: models.DecomposeRequest) -> models.DecomposeResponse:
        """Atomic yes/no questions of a prompt."""
        decomposed = await decomposer.decompose(as_prompt(request.prompt))
        return models.DecomposeResponse(
            prompt=decomposed.prompt,
            questions=question_models(decomposed.questions),
            revision=decomposed.revision,
        )

    @app.post("/v1/verify", response_model=models.VerifyResponse, responses=_ERRORS)
    async def verify(request: models.VerifyRequest) -> Response:
        """P(yes) or the grade of every question about a picture, in one call."""
        pixels = decode_base64_image(request.image, limits)
        questions = as_questions(request.questions, settings.max_questions)
        return verify_response(await verifier.verify(pixels, questions))

    @app.post(
        "/v1/verify/pixels",
        response_model=models.RawResponse,
        responses=_ERRORS,
        openapi_extra=PIXELS_BODY,
    )
    async def verify_pixels(request: Request) -> Response:
        """The same for programs: some pictures at once, no PNG and no base64.

        The body is a line of JSON, `[{"height": …, "width": …, "questions": […]}, …]`, and behind
        its line end the pixels of all pictures, three bytes each, row by row. Where every picture
        fails, the answer is the first one's error.
        """
        pictures = raw_pictures(await request.body(), limits, settings.max_questions)
        answers = await asyncio.gather(
            *(verifier.verify(pixels, questions) for pixels, questions in pictures),
            return_exceptions=True,
        )
        return raw_response([_raw_answer(each) for each in told_or_error(answers)])

    @app.post("/v1/score", responses=_ERRORS)
    async def score(request: models.ScoreRequest) -> models.ScoreResponse:
        """The reward of a picture under its prompt, by the program the caller names."""
        pixels = decode_base64_image(request.image, limits)
        # By name only: a path in a request would import code of the caller's choice.
        program = default_program
        if request.program is not None:
            program = reward_program(request.program)
        questions = await question_set(
            program, request.prompt, request.questions, decomposer, settings.max_questions
        )
        return score_response(await judge_picture(program, questions, pixels, verifier), questions)


def _add_probes(
    app: FastAPI, decomposer: Decomposer, verifier: Verifier, settings: GatewaySettings
) -> None:
    @app.get("/v1/info", responses=_ERRORS)
    async def info() -> models.InfoResponse:
        """Model and revision behind each service, and the reward programs there are."""
        infos = await asyncio.gather(decomposer.info(), verifier.info())
        rewards = {"default": settings.reward_program, "programs": list(reward_programs())}
        return {"decomposer": dict(infos[0]), "verifier": dict(infos[1]), "rewards": rewards}

    @app.get(
        "/healthz",
        response_model=models.HealthResponse,
        responses={503: {"model": models.HealthResponse}},
    )
    async def healthz() -> JSONResponse:
        """200 where both services answer, 503 with the reason where one does not."""
        probes = await asyncio.gather(_probe(decomposer.info()), _probe(verifier.info()))
        healthy = all(answers for answers, _ in probes)
        body = models.HealthResponse(
            status="ok" if healthy else "degraded",
            services={"decomposer": probes[0][1], "verifier": probes[1][1]},
        )
        return JSONResponse(body.model_dump(), 200 if healthy else 503)


async def _probe(info: Awaitable[Mapping[str, Any]]) -> tuple[bool, str]:
    """Whether a service answers, and with which revision or error."""
    try:
        async with asyncio.timeout(_PROBE_S):
            return True, str((await info)["revision"])
    except (MeshError, TimeoutError) as error:
        return False, f"{type(error).__name__}: {error}"


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(MeshError)
    async def mesh_error(_: Request, error: MeshError) -> JSONResponse:
        return _mesh_error(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        issues = [
            f"{'.'.join(str(part) for part in issue['loc'][1:]) or 'body'}: {issue['msg']}, got "
            f"{str(issue.get('input'))[:80]!r}"
            for issue in error.errors()
        ]
        malformed = any(issue["type"] == "json_invalid" for issue in error.errors())
        code, status = ("malformed_json", 400) if malformed else ("invalid_request", 422)
        return _error(status, code, "; ".join(issues) + "; see /docs for the form")


def _mesh_error(error: MeshError) -> JSONResponse:
    status, code = _status_of(error)
    headers = {"retry-after": "1"} if status == _TOO_MANY else None
    return _error(status, code, str(error), headers)


def _status_of(error: MeshError) -> tuple[int, str]:
    """The HTTP status of an error, and the code that programs know it by."""
    if isinstance(error, Overloaded) or isinstance(error.__cause__, _FULL):
        return _TOO_MANY, "too_many_requests"
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return status, code
    return 500, "internal"


def _raw_answer(answer: tuple[Verdict, ...] | MeshError) -> models.RawAnswer:
    """Verdicts of one picture among several, or why it has none, as it would be told alone."""
    if not isinstance(answer, MeshError):
        return models.RawAnswer(verdicts=verdict_models(answer))
    status, code = _status_of(answer)
    return models.RawAnswer(error=models.RawError(status=status, code=code, message=str(answer)))


def _error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


def _served_app(args: dict[str, Any]) -> FastAPI:
    """The application as a replica makes it, over Serve handles."""
    settings = parse_settings(GatewaySettings, args, "gateway")
    # Serve's own word: `serve deploy` reads no file of ours, and Serve may have run before.
    check_exposure(settings.asks_for_a_token, listening_host())
    patience = settings.patience()
    return create_app(
        connect_decomposer(app=settings.decomposer_app, **patience),
        # A slot for each picture of every request taken: none waits for a call of another.
        connect_verifier(
            app=settings.verifier_app,
            **patience | {"max_concurrency": settings.max_concurrency * MOST_PICTURES},
        ),
        settings,
        connect_generator(app=settings.generator_app, **patience)
        if settings.generator_app
        else None,
        GatewayMetrics,
    )


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve config's ``args`` (:class:`GatewaySettings`).

    Raises ConfigError for wrong keys and an unknown program, before anything is started.
    """
    load_reward_program(parse_settings(GatewaySettings, args, "gateway").reward_program)

    def served_app() -> FastAPI:
        return _served_app(args)

    replica = serve.ingress(served_app)()
    deployment = serve.deployment(name="Gateway", max_ongoing_requests=256)(replica)
    return deployment.bind()
