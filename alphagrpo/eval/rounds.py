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
from typing import TYPE_CHECKING, Any

from alphagrpo.eval.opinions import PictureJudge
from alphagrpo.eval.paired import paired_difference, share_interval
from alphagrpo.ports import PictureRequest
from alphagrpo.rollout.rounds import round_seed

if TYPE_CHECKING:
    from alphagrpo.ports import Picture, RolloutPool
    from alphagrpo.types import Prompt

CHAINS = ("last", "gated")


@dataclass(frozen=True, slots=True)
class _Held:
    """A picture and what was said of it."""

    picture: Picture
    opinion: Mapping[str, Any]


class Refining:
    """Adds rounds to the lines of one batch of prompts."""

    def __init__(
        self,
        pool: RolloutPool,
        judge: PictureJudge,
        *,
        version: int,
        keep: Callable[[Prompt, Picture], None],
    ) -> None:
        self._pool, self._judge, self._version, self._keep = pool, judge, version, keep

    async def add_rounds(
        self,
        lines: Sequence[dict[str, Any]],
        requests: Sequence[PictureRequest],
        pictures: Sequence[Picture],
        rounds: int,
    ) -> None:
        """Give each line ``rounds``: per round and chain, what is held after it.

        A chain's entry has the fields of a picture's opinion, and of the refinement made in this
        round: ``reflection`` (defects of the picture it was shown, whether one was named),
        ``tried`` (its own all_right, per_question and dvreward) and ``kept``.
        """
        first = [_Held(*pair) for pair in zip(pictures, lines, strict=True)]
        held: dict[str, list[_Held]] = {chain: first for chain in CHAINS}
        for line in lines:
            line["rounds"] = []
        for index in range(1, rounds + 1):
            tries = await self._refine(requests, held, index)
            for number, line in enumerate(lines):
                entry = {}
                for chain in CHAINS:
                    before, tried = held[chain][number], tries[chain][number]
                    kept = chain == "last" or _better(tried, before)
                    entry[chain] = self._entry(requests[number].prompt, before, tried, kept)
                line["rounds"].append(entry)
            held = {
                chain: [
                    tried if line["rounds"][-1][chain]["kept"] else before
                    for line, before, tried in zip(lines, held[chain], tries[chain], strict=True)
                ]
                for chain in CHAINS
            }

    async def _refine(
        self, requests: Sequence[PictureRequest], held: Mapping[str, list[_Held]], index: int
    ) -> dict[str, list[_Held]]:
        """One refinement of every held picture; chains that hold the same one share it."""
        wanted: dict[tuple[int, str], PictureRequest] = {}
        for chain in CHAINS:
            for number, request in enumerate(requests):
                picture = held[chain][number].picture
                wanted[number, held[chain][number].opinion["picture"]] = replace(
                    request, seed=round_seed(request.seed, index), start=picture.as_start()
                )
        drawn = await self._pool.draw(list(wanted.values()), self._version)
        for request, picture in zip(wanted.values(), drawn, strict=True):
            self._keep(request.prompt, picture)
        prompts = [request.prompt for request in wanted.values()]
        opinions = await asyncio.gather(*map(self._judge.opinion, prompts, drawn))
        found = dict(zip(wanted, map(_Held, drawn, opinions), strict=True))
        return {
            chain: [
                found[number, held[chain][number].opinion["picture"]]
                for number in range(len(requests))
            ]
            for chain in CHAINS
        }

    def _entry(self, prompt: Prompt, before: _Held, tried: _Held, kept: bool) -> dict[str, Any]:
        after = tried if kept else before
        shown, thought = before.picture.pixels, tried.picture.thought
        return {
            "kept": kept,
            "reflection": thought,
            **self._judge.reflection(prompt, shown, thought),
            "tried": {key: tried.opinion[key] for key in TRIED},
            "before": {key: before.opinion[key] for key in TRIED},
            **{key: after.opinion[key] for key in HELD},
        }


TRIED = ("picture", "all_right", "per_question", "dvreward")
HELD = ("picture", "per_question", "all_right", "strict", "extra", "dvreward")


def _better(tried: _Held, before: _Held) -> bool:
    """Whether the gate keeps the refinement: its reward is known and higher."""
    new, old = tried.opinion["dvreward"], before.opinion["dvreward"]
    return new is not None and (old is None or new > old)


def summarise_rounds(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Figures per ``round<i>`` and chain; empty where no line has rounds.

    - ``all_right``, ``strict``, ``per_question``, ``dvreward``: means of what is held after it,
      ``all_right_gain`` its paired difference to the first picture with a 95 % interval;
    - ``mended``: of refinements of pictures that were not all right, the share that are;
      ``broken``: of refinements of right pictures, the share that are not any more;
    - ``improved``, ``harmed``: share of refinements whose share of right answers rose or fell;
    - ``named``: of reflections on pictures with a defect, the share that name one.

    A figure nobody could give is None. ``kept`` is the share of refinements that were kept.
    """
    rounds = min((len(line.get("rounds", ())) for line in lines), default=0)
    return {
        f"round{index + 1}": {chain: _chain_figures(lines, index, chain) for chain in CHAINS}
        for index in range(rounds)
    }


def _chain_figures(lines: Sequence[Mapping[str, Any]], index: int, chain: str) -> dict[str, Any]:
    entries = [line["rounds"][index][chain] for line in lines]
    figures: dict[str, Any] = {"n": len(entries)}
    for key in HELD[1:]:
        figures[key] = _mean([float(e[key]) for e in entries if e[key] is not None])
    pairs = [
        (float(line["all_right"]), float(entry["all_right"]))
        for line, entry in zip(lines, entries, strict=True)
        if entry["all_right"] is not None
    ]
    if pairs:
        old, new = zip(*pairs, strict=True)
        figures["all_right_interval"] = list(share_interval(new))
        figures["all_right_gain"] = paired_difference(old, new).to_json()
    return figures | _refinement_figures(entries)


def _refinement_figures(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the refinements of one round and chain did, kept or not."""
    steps = [(e["before"], e["tried"]) for e in entries]
    moves = [moved(entry) for entry in entries]
    judged = [(b, t) for b, t in steps if b["all_right"] is not None]
    return {
        "kept": _mean([float(e["kept"]) for e in entries]),
        "mended": _mean([float(t["all_right"]) for b, t in judged if not b["all_right"]]),
        "broken": _mean([float(not t["all_right"]) for b, t in judged if b["all_right"]]),
        **{
            key: _mean([float(is_so) for move in moves if (is_so := move[key]) is not None])
            for key in ("improved", "harmed")
        },
        "named": _mean([float(e["named"]) for e in entries if e["named"] is not None]),
    }


def moved(entry: Mapping[str, Any]) -> dict[str, bool | None]:
    """Whether a refinement ``improved`` or ``harmed`` the share of right answers, kept or not.

    None where nobody could say. ``entry`` is one round's line of a chain.
    """
    before, tried = entry["before"]["per_question"], entry["tried"]["per_question"]
    if before is None or tried is None:
        return {"improved": None, "harmed": None}
    return {"improved": tried > before, "harmed": tried < before}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
