"""Held-out pictures refined: what one and more rounds make of them, with the gate and without.

Two chains begin from each prompt's picture. ``last`` refines the newest picture and keeps what
comes out. ``gated`` keeps the better of the two by the verifier's reward, never by a benchmark's
scorer (method: section 8 tells what the released scripts do). A refinement whose reward could not
be had is not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alphagrpo.eval.lines import CHAINS, Chain, Held, HeldOutLine, Opinion, Refinement, Side
from alphagrpo.rollout.rounds import round_seed

if TYPE_CHECKING:
    from alphagrpo.eval.opinions import Panel
    from alphagrpo.ports import Picture, PictureRequest, PictureSource
    from alphagrpo.types import Prompt


@dataclass(frozen=True, slots=True)
class _Judged:
    """A picture and what was said of it."""

    picture: Picture
    opinion: Opinion


_Chains = Mapping[Chain, Sequence[_Judged]]
"""By chain: one picture per prompt."""


class Refining:
    """Adds rounds to the lines of one batch of prompts."""

    def __init__(
        self,
        pool: PictureSource,
        panel: Panel,
        *,
        version: int,
        keep: Callable[[Prompt, Picture], None],
    ) -> None:
        self._pool, self._panel, self._version, self._keep = pool, panel, version, keep

    async def add_rounds(
        self,
        lines: Sequence[HeldOutLine],
        requests: Sequence[PictureRequest],
        pictures: Sequence[Picture],
        rounds: int,
    ) -> list[HeldOutLine]:
        """``lines`` with ``rounds``: per round and chain, the refinement and what is held then."""
        firsts = [_Judged(p, line.opinion) for p, line in zip(pictures, lines, strict=True)]
        held: _Chains = dict.fromkeys(CHAINS, firsts)
        for index in range(1, rounds + 1):
            tries = await self._refine(requests, held, index)
            after: dict[Chain, list[_Judged]] = {chain: [] for chain in CHAINS}
            refined = []
            for number, line in enumerate(lines):
                entry: dict[Chain, Refinement] = {}
                for chain in CHAINS:
                    before, tried = held[chain][number], tries[chain][number]
                    kept = chain == "last" or _is_better(tried.opinion, before.opinion)
                    entry[chain] = self._entry(requests[number].prompt, before, tried, kept)
                    after[chain].append(tried if kept else before)
                refined.append(replace(line, rounds=(*line.rounds, entry)))
            lines, held = refined, after
        return list(lines)

    async def _refine(
        self, requests: Sequence[PictureRequest], held: _Chains, index: int
    ) -> _Chains:
        """One refinement of every held picture; chains that hold the same one share it."""
        orders: dict[tuple[int, str], PictureRequest] = {}
        for chain in CHAINS:
            for number, request in enumerate(requests):
                judged = held[chain][number]
                orders[number, judged.opinion.picture] = replace(
                    request,
                    seed=round_seed(request.seed, index),
                    start=judged.picture.as_start(),
                )
        pictures = await self._pool.draw(list(orders.values()), self._version)
        prompts = [request.prompt for request in orders.values()]
        for prompt, picture in zip(prompts, pictures, strict=True):
            self._keep(prompt, picture)
        opinions = await asyncio.gather(*map(self._panel.opinion, prompts, pictures))
        refined = dict(zip(orders, map(_Judged, pictures, opinions), strict=True))
        return {
            chain: [
                refined[number, judged.opinion.picture] for number, judged in enumerate(held[chain])
            ]
            for chain in CHAINS
        }

    def _entry(self, prompt: Prompt, before: _Judged, tried: _Judged, kept: bool) -> Refinement:
        thought = tried.picture.thought
        check = self._panel.reflection(prompt, before.picture.pixels, thought)
        return Refinement(
            kept=kept,
            reflection=thought,
            defects=check.defects,
            named=check.named,
            tried=Side.of(tried.opinion),
            before=Side.of(before.opinion),
            held=Held.of((tried if kept else before).opinion),
        )


def _is_better(tried: Opinion, before: Opinion) -> bool:
    """Whether the gate keeps the refinement: its reward is known and higher; a tie keeps none."""
    new, old = tried.dvreward, before.dvreward
    return new is not None and (old is None or new > old)
