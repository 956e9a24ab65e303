"""A canary set: pictures whose answers are known, asked of a judge again and again.

A line of a canary file is an object with ``picture``, a path from the file's own folder, and
``questions`` and ``answers``, lists of texts and of true or false.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphagrpo.errors import BadImage, ConfigError, ServiceError
from alphagrpo.images import decode_image, image_hash
from alphagrpo.seeds import derive
from alphagrpo.shipped import locate
from alphagrpo.types import Question

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.ports import Verifier

WORLD_PREFIX = "shapes:"
MARK_BITS = 16
"""Pixels whose last bit tells at which step a picture was asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryPicture:
    """One picture with its questions and what is true of it."""

    pixels: NDArray[np.uint8]
    """[H, W, 3]"""
    questions: tuple[Question, ...]
    answers: tuple[bool, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """A name of each question that no other picture's question has."""
        name = image_hash(self.pixels)[:16]
        return tuple(f"{name}/{question.text}" for question in self.questions)


Canary = Sequence[CanaryPicture]
Answers = Mapping[str, float]
"""P(yes) by :attr:`CanaryPicture.keys`; a question without a verdict has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryFigures:
    """How a judge did, over the questions that it answered both now and the first time."""

    accuracy: float
    """Share of answers on the right side of one half."""
    error: float
    """Mean |P(yes) - answer|, the answer being 1 or 0."""
    change: float
    """Mean |P(yes) - P(yes) of the first time|."""
    drift: float
    """The largest of: how far the accuracy fell and the error rose since the first time, and
    ``change``.
    """
    answered: int
    of: int


def load_canary(source: str) -> tuple[CanaryPicture, ...]:
    """The canary of a JSON-lines file, or of ``shapes:N``.

    Raises ConfigError for a file that is not there or holds a malformed line, and for a picture
    that does not decode.
    """
    if source.startswith(WORLD_PREFIX):
        return shapes_canary(int(source.removeprefix(WORLD_PREFIX)))
    path = locate(source)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"a canary is a JSON-lines file in UTF-8 or shapes:N, {path} cannot be read "
            f"({type(error).__name__}); check watch.canary"
        ) from None
    pictures = [
        _read_line(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()
    ]
    if not pictures:
        raise ConfigError(f"a canary has at least one picture, {path} has none; add a line")
    return tuple(pictures)


def _read_line(path: Path, number: int, line: str) -> CanaryPicture:
    try:
        record: dict[str, Any] = json.loads(line)
        texts, answers = record["questions"], record["answers"]
        good = len(texts) == len(answers) > 0
        good &= all(isinstance(text, str) and text.strip() for text in texts)
        good &= all(isinstance(answer, bool) for answer in answers)
        pixels = decode_image((path.parent / record["picture"]).read_bytes())
    except (ValueError, KeyError, TypeError, OSError, BadImage) as error:
        raise _bad_line(path, number, f"{type(error).__name__}: {error}") from None
    if not good:
        raise _bad_line(path, number, f"{texts!r} and {answers!r}")
    questions = tuple(
        Question(id=f"s{index}", text=text, kind="semantic", tag="Canary")
        for index, text in enumerate(texts)
    )
    return CanaryPicture(pixels=pixels, questions=questions, answers=tuple(answers))


def _bad_line(path: Path, number: int, problem: str) -> ConfigError:
    return ConfigError(
        'each line of a canary is an object with "picture", a PNG or JPEG file, and as many '
        f'"questions" as "answers" (true or false), line {number} of {path} is not: {problem}; fix '
        "or remove the line"
    )


def shapes_canary(count: int) -> tuple[CanaryPicture, ...]:
    """``count`` renders of the miniature world with the questions of a prompt, always the same.

    Every other picture shows what its prompt asks for, the rest something else of the same family.
    """
    import numpy as np

    from alphagrpo.shapes.grammar import Reading, parse_question
    from alphagrpo.shapes.questions import reference_questions
    from alphagrpo.shapes.render import render
    from alphagrpo.shapes.specs import sample_scene, sample_spec

    rng = np.random.default_rng(derive("canary"))
    pictures = []
    for index in range(count):
        spec = sample_spec(rng)
        scene = sample_scene(spec if index % 2 == 0 else sample_spec(rng, spec.family), rng)
        questions, truth = reference_questions(spec), Reading.of_scene(scene)
        answers = tuple(parse_question(question.text).holds(truth) for question in questions)
        pictures.append(CanaryPicture(pixels=render(scene), questions=questions, answers=answers))
    return tuple(pictures)


async def ask_canary(canary: Canary, verifier: Verifier, step: int) -> tuple[dict[str, float], str]:
    """P(yes) of every question that is answered, and what the judge calls itself.

    One call per picture, all at once; a picture whose call fails has no answers. Pictures are
    :func:`marked` with the step, or the verifier's memory would answer for it.
    """

    async def ask(picture: CanaryPicture) -> tuple[dict[str, float], str]:
        try:
            verdicts = await verifier.verify(marked(picture.pixels, step), picture.questions)
        except ServiceError:
            return {}, ""
        p_yes = [verdict.p_yes for verdict in verdicts]
        return dict(zip(picture.keys, p_yes, strict=True)), verdicts[0].judge

    asked = await asyncio.gather(*map(ask, canary))
    answers = {key: p_yes for part, _ in asked for key, p_yes in part.items()}
    return answers, next((judge for _, judge in asked if judge), "")


def marked(pixels: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """[H, W, 3] the picture with the step's last bits in those of its first pixels: another picture
    to whoever remembers answers, the same to whoever looks.
    """
    picture = pixels.copy()
    row = picture[0, :MARK_BITS, 0]
    bits = [step >> place & 1 for place in range(len(row))]
    row[:] = [value & 0xFE | bit for value, bit in zip(row.tolist(), bits, strict=True)]
    return picture


def canary_figures(canary: Canary, answers: Answers, first: Answers) -> CanaryFigures | None:
    """The figures of ``answers`` against those of the ``first`` time; None where fewer than half
    of the questions have both.
    """
    truth = {
        key: float(answer)
        for picture in canary
        for key, answer in zip(picture.keys, picture.answers, strict=True)
    }
    both = [key for key in truth if key in answers and key in first]
    if 2 * len(both) < len(truth):
        return None
    (accuracy, error), (first_accuracy, first_error) = (
        (
            _mean([(side[key] > 0.5) == bool(truth[key]) for key in both]),
            _mean([abs(side[key] - truth[key]) for key in both]),
        )
        for side in (answers, first)
    )
    change = _mean([abs(answers[key] - first[key]) for key in both])
    return CanaryFigures(
        accuracy=accuracy,
        error=error,
        change=change,
        drift=max(first_accuracy - accuracy, error - first_error, change),
        answered=len(both),
        of=len(truth),
    )


def fingerprint(canary: Canary) -> int:
    """A number by which two canaries are told apart."""
    return derive("canary", *(key for picture in canary for key in picture.keys))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
