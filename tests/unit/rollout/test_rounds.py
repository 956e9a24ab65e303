"""Inference rounds: what the gate keeps, what each round begins from, and who is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from alphagrpo.errors import ConfigError, ServiceUnavailable
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.rollout.rounds import Round, check_rounds, draw_rounds, round_seed
from alphagrpo.types import Prompt, Score

PROMPT = Prompt(id="p", text="a red circle")


class Chain:
    """Draws pictures numbered in order; picture i has reward ``rewards[i]``."""

    def __init__(self, *rewards: float) -> None:
        self.rewards, self.requests = rewards, []

    async def draw(self, requests: Sequence[PictureRequest]) -> list[Picture]:
        (request,) = requests
        number = len(self.requests)
        self.requests.append(request)
        return [
            Picture(
                prompt=request.prompt,
                thought=f"thought {number}",
                pixels=np.full((2, 2, 3), number, np.uint8),
                policy_version=0,
                latents=np.full((1, 1), number, np.float32),
            )
        ]

    async def score(self, prompt: Prompt, pixels: np.ndarray) -> Score:
        value = self.rewards[int(pixels[0, 0, 0])]
        return Score(semantic=value, quality=value, value=value, verdicts=())


async def rounds_of(chain: Chain, gate: str, count: int = 3, scored: bool = True) -> list[Round]:
    return [
        one
        async for one in draw_rounds(
            PictureRequest(prompt=PROMPT, seed=5),
            rounds=count,
            gate=gate,
            draw=chain.draw,
            score=chain.score if scored else None,
        )
    ]


def begun_from(chain: Chain) -> list[int | None]:
    return [None if r.start is None else int(r.start.latents[0, 0]) for r in chain.requests]


async def test_the_gate_keeps_the_better_and_goes_on_from_it() -> None:
    chain = Chain(0.5, 0.3, 0.8, 0.8)
    rounds = await rounds_of(chain, "dvreward")
    assert [one.kept for one in rounds] == [True, False, True, False], "a tie keeps the earlier one"
    assert [one.refined_from for one in rounds] == [None, 0, 0, 2]
    assert begun_from(chain) == [None, 0, 0, 2]


async def test_without_the_gate_the_last_is_kept_whatever_it_is_worth() -> None:
    chain = Chain(0.9, 0.1, 0.2, 0.0)
    rounds = await rounds_of(chain, "none")
    assert all(one.kept for one in rounds)
    assert begun_from(chain) == [None, 0, 1, 2]
    assert [one.score.value for one in rounds] == [0.9, 0.1, 0.2, 0.0]
    silent = await rounds_of(Chain(), "none", scored=False)
    assert [one.score for one in silent] == [None] * 4


async def test_seeds_depend_on_request_and_round_alone() -> None:
    chain = Chain(0.5, 0.3, 0.8, 0.1)
    await rounds_of(chain, "dvreward")
    assert [r.seed for r in chain.requests] == [5, *(round_seed(5, i) for i in (1, 2, 3))]
    assert len({r.seed for r in chain.requests}) == 4


async def test_pictures_come_as_they_are_made_and_a_lost_judge_is_told() -> None:
    chain = Chain(0.5)

    async def score(prompt: Prompt, pixels: np.ndarray) -> Score:
        if pixels[0, 0, 0]:
            raise ServiceUnavailable("gone; wait")
        return await chain.score(prompt, pixels)

    request = PictureRequest(prompt=PROMPT, seed=5)
    stream = draw_rounds(request, rounds=2, gate="dvreward", draw=chain.draw, score=score)
    assert (await anext(stream)).index == 0
    assert len(chain.requests) == 1, "nothing is drawn ahead of the caller"
    with pytest.raises(ServiceUnavailable):
        await anext(stream)


def test_rounds_out_of_bounds_and_a_gate_without_a_judge_are_refused() -> None:
    check_rounds(2, "dvreward", most=2, can_score=True)
    check_rounds(0, "dvreward", most=2, can_score=False)
    check_rounds(2, "none", most=2, can_score=False)
    with pytest.raises(ConfigError, match="got 3"):
        check_rounds(3, "none", most=2, can_score=True)
    with pytest.raises(ConfigError, match="got -1"):
        check_rounds(-1, "none", most=2, can_score=True)
    with pytest.raises(ConfigError, match="gate"):
        check_rounds(1, "dvreward", most=2, can_score=False)
