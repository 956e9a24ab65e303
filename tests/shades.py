"""A world of one number: pictures of one shade, so that every opinion is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alphagrpo.eval.heldout import HeldOutJudges, evaluate
from alphagrpo.eval.lines import HeldOutLine
from alphagrpo.eval.oracles import OracleOpinion, ReflectionCheck
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.rewards.programs import reward_program
from alphagrpo.types import Prompt, Question, Sort
from tests.fakes import FakeDecomposer, FakeVerifier, make_questions


class ShadePool:
    """Draws pictures of one shade: the prompt's own list, one entry per picture drawn of it."""

    def __init__(self, shades: Mapping[str, Sequence[int]]) -> None:
        self.shades = {name: list(values) for name, values in shades.items()}
        self.requests: list[PictureRequest] = []
        self.versions: set[int] = set()

    @property
    def size(self) -> int:
        return 1

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        self.requests += requests
        self.versions.add(version)
        return tuple(self._picture(request, version) for request in requests)

    def _picture(self, request: PictureRequest, version: int) -> Picture:
        shade = self.shades[request.prompt.id].pop(0)
        start = "" if request.start is None else f" from {int(request.start.latents[0, 0])}"
        return Picture(
            prompt=request.prompt,
            thought=f"shade {shade}{start}",
            pixels=np.full((2, 2, 3), shade, np.uint8),
            policy_version=version,
            latents=np.full((1, 1), shade, np.float32),
        )


def shade_of(pixels: np.ndarray) -> int:
    return int(pixels[0, 0, 0])


def shade_answer(pixels: np.ndarray, question: Question) -> float:
    """P(yes) to every question: the shade over 100, so that this is the DVReward too."""
    return shade_of(pixels) / 100


def shade_oracle(prompt: Prompt, pixels: np.ndarray) -> OracleOpinion:
    """Right from shade 50 on, half right from 25 on; from 90 on there is more than asked for."""
    shade, (first, second) = shade_of(pixels), make_questions("x").questions
    return OracleOpinion(
        answers=((first, shade >= 50), (second, shade >= 25)),
        all_right=shade >= 50,
        strict=50 <= shade < 90,
        extra=shade >= 90,
    )


def shade_reflection(prompt: Prompt, pixels: np.ndarray, thought: str) -> ReflectionCheck:
    """A defect for each of the oracle's noes; named by a thought that speaks of shade 60."""
    defects = 2 - (shade_of(pixels) >= 50) - (shade_of(pixels) >= 25)
    return ReflectionCheck(defects=defects, named=("60" in thought) if defects else None)


def shade_judges(
    answer: Callable[[np.ndarray, Question], float] = shade_answer, **changes: Any
) -> HeldOutJudges:
    judges = {
        "oracle": shade_oracle,
        "reflection": shade_reflection,
        "decomposer": FakeDecomposer(),
        "verifier": FakeVerifier(answer),
        "program": reward_program("dvreward"),
    }
    return HeldOutJudges(**(judges | changes))


def shade_prompts(names: Sequence[str], sorts: Mapping[str, Sort] | None = None) -> list[Prompt]:
    """Prompts with these ids; plain where ``sorts`` says nothing."""
    sorts = sorts or {}
    return [
        Prompt(id=name, text=f"prompt {name}", metadata={"sort": sorts.get(name, "plain")})
        for name in names
    ]


async def evaluate_shades(
    shades: Mapping[str, Sequence[int]],
    *,
    rounds: int = 0,
    sorts: Mapping[str, Sort] | None = None,
    judges: HeldOutJudges | None = None,
    **options: Any,
) -> tuple[ShadePool, list[HeldOutLine]]:
    """The pool and the lines of prompts with these ids and shades."""
    pool = ShadePool(shades)
    settings = {"version": 3, "seed": 1, "batch_size": 2, **options}
    prompts = shade_prompts(list(shades), sorts)
    lines = await evaluate(pool, prompts, judges or shade_judges(), rounds=rounds, **settings)
    return pool, lines
