"""Rounds on held-out prompts: two chains from one picture, what is shared, what is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from alphagrpo.eval.heldout import HeldOutJudges, evaluate, summarise
from alphagrpo.eval.oracles import Opinion, shapes_reflection
from alphagrpo.eval.rounds import summarise_rounds
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.rewards.programs import reward_program
from alphagrpo.shapes.language import canonical
from alphagrpo.shapes.render import render
from alphagrpo.shapes.specs import Item, Spec
from alphagrpo.shapes.world import Scene, SceneObject
from alphagrpo.types import Prompt, Question
from tests.fakes import FakeDecomposer, FakeVerifier, make_questions


class ShadePool:
    """Draws pictures of one shade: the prompt's own list, one entry per picture drawn of it."""

    def __init__(self, shades: dict[str, list[int]]) -> None:
        self.shades = {name: list(values) for name, values in shades.items()}
        self.requests: list[PictureRequest] = []

    @property
    def size(self) -> int:
        return 1

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        self.requests += requests
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


def shade_of(pixels: np.ndarray, question: Question) -> float:
    return float(pixels[0, 0, 0]) / 100


def oracle(prompt: Prompt, pixels: np.ndarray) -> Opinion:
    """A picture is right from shade 50 on."""
    right = bool(pixels[0, 0, 0] >= 50)
    question = make_questions("x").questions[0]
    return Opinion(answers=((question, right),), all_right=right, strict=right, extra=False)


async def lines_of(shades: dict[str, list[int]], rounds: int, **judges: Any) -> Any:
    pool = ShadePool(shades)
    settings = {
        "oracle": oracle,
        "decomposer": FakeDecomposer(),
        "verifier": FakeVerifier(shade_of),
        "program": reward_program("dvreward"),
        **judges,
    }
    prompts = [Prompt(id=name, text=name, metadata={"sort": "plain"}) for name in shades]
    lines = await evaluate(
        pool, prompts, HeldOutJudges(**settings), version=3, seed=1, batch_size=2, rounds=rounds
    )
    return pool, lines


async def test_chains_part_where_the_gate_refuses_and_share_what_is_the_same() -> None:
    # Draft 40; round 1 gives 20, which the gate refuses; round 2 of "last" 70, of "gated" 60.
    pool, (line,) = await lines_of({"a": [40, 20, 70, 60]}, rounds=2)
    first, second = line["rounds"]
    assert len(pool.requests) == 4, "round 1 is one refinement for both chains"
    assert (first["last"]["kept"], first["gated"]["kept"]) == (True, False)
    assert (first["last"]["dvreward"], first["gated"]["dvreward"]) == pytest.approx((0.2, 0.4))
    assert second["last"]["reflection"] == "shade 70 from 20"
    assert second["gated"]["reflection"] == "shade 60 from 40"
    assert (second["last"]["all_right"], second["gated"]["all_right"]) == (True, True)
    assert line["dvreward"] == pytest.approx(0.4), "the line itself stays that of the first picture"


async def test_figures_count_what_was_mended_and_what_was_broken() -> None:
    shades = {
        "mended": [40, 60],
        "broken": [60, 40],
        "still wrong": [10, 20],
        "still right": [80, 90],
    }
    _, lines = await lines_of(shades, rounds=1)
    figures = summarise(lines)["plain"]["refined"]["round1"]
    last, gated = figures["last"], figures["gated"]
    assert (last["mended"], last["broken"]) == (0.5, 0.5)
    assert (last["improved"], last["harmed"]) == (0.25, 0.25)
    assert (last["all_right"], gated["all_right"]) == (0.5, 0.75)
    assert last["all_right_gain"]["mean"] == 0.0
    assert gated["all_right_gain"]["mean"] == 0.25
    assert gated["kept"] == 0.75


async def test_a_refinement_without_a_score_is_not_kept_by_the_gate() -> None:
    _, (line,) = await lines_of({"a": [40, 90]}, 1, verifier=FakeVerifier(shade_of, fail_calls=[1]))
    gated = line["rounds"][0]["gated"]
    assert not gated["kept"]
    assert gated["tried"]["dvreward"] is None
    assert gated["dvreward"] == pytest.approx(0.4)


async def test_without_judges_pictures_are_refined_and_figures_are_absent() -> None:
    _, lines = await lines_of(
        {"a": [40, 90]}, 1, oracle=None, verifier=None, decomposer=None, program=None
    )
    figures = summarise_rounds(lines)["round1"]["last"]
    assert figures["all_right"] is figures["mended"] is figures["named"] is None
    assert figures["kept"] == 1.0


async def test_no_rounds_no_figures() -> None:
    _, lines = await lines_of({"a": [40]}, 0)
    assert "rounds" not in lines[0]
    assert "refined" not in summarise(lines)["plain"]
    assert summarise_rounds(lines) == {}


def test_reflections_are_measured_by_what_is_really_wrong() -> None:
    spec = Spec((Item(1, "red", "circle"),))
    prompt = Prompt(id="p", text=canonical(spec), metadata={"spec": spec.to_json()})
    blue = render(Scene((SceneObject("circle", "blue", 1, 1),), "black"))
    red = render(Scene((SceneObject("circle", "red", 1, 1),), "black"))
    good = shapes_reflection(prompt, blue, "<think>the circle is blue , it should be red</think>")
    assert good == {"defects": 1, "named": True}
    assert shapes_reflection(prompt, blue, "<think>nothing is wrong</think>")["named"] is False
    assert shapes_reflection(prompt, red, "nothing is wrong") == {"defects": 0, "named": None}
