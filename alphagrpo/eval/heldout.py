"""Before and after: the same held-out prompts, the same seeds, two versions of the policy.

Two judges look at each picture. The *oracle* of a world that has one reads pixels and knows what
was asked; it is never a reward. The *verifier* answers the decomposer's questions, as in training,
so that a reward which rises while the oracle's figures do not is seen at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alphagrpo.data import sort_of
from alphagrpo.eval.opinions import HeldOutJudges, PictureJudge
from alphagrpo.eval.paired import paired_difference, share_interval
from alphagrpo.eval.rounds import Refining, summarise_rounds
from alphagrpo.images import encode_png, image_hash
from alphagrpo.ports import PictureRequest
from alphagrpo.seeds import derive

if TYPE_CHECKING:
    from alphagrpo.ports import Picture, RolloutPool
    from alphagrpo.types import Prompt

__all__ = ["SORTS", "HeldOutJudges", "differences", "evaluate", "summarise"]

SORTS = ("plain", "thought")
MEASURES = ("per_question", "all_right", "strict", "extra", "dvreward")
MAX_VERIFICATIONS = 8
"""Pictures of an evaluation in verification at once: enough to keep two engines busy."""
CHUNKS_AT_ONCE = 2
"""One is drawn while the other is judged."""


async def evaluate(
    pool: RolloutPool,
    prompts: Sequence[Prompt],
    judges: HeldOutJudges,
    *,
    version: int,
    seed: int,
    batch_size: int = 64,
    rounds: int = 0,
    keep: Callable[[str, bytes], object] | None = None,
    num_kept: int = 24,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """One line (a JSON object) per prompt, in order; see :func:`summarise` for their meaning.

    With ``rounds`` each picture is refined so often, see :mod:`alphagrpo.eval.rounds`. ``keep`` is
    called with content hash and PNG of the first ``num_kept`` pictures of each sort;
    ``on_progress`` with pictures finished and wanted. Pictures are judged while others are drawn.
    """
    kept = _first_of_each_sort(prompts, num_kept) if keep is not None else set()
    judge = PictureJudge(judges, asyncio.Semaphore(MAX_VERIFICATIONS))
    room, finished = asyncio.Semaphore(CHUNKS_AT_ONCE), 0

    def keep_some(prompt: Prompt, picture: Picture) -> None:
        if keep is not None and prompt.id in kept:
            keep(image_hash(picture.pixels), encode_png(picture.pixels))

    async def of_chunk(chunk: Sequence[Prompt]) -> list[dict[str, Any]]:
        nonlocal finished
        async with room:
            requests = [
                PictureRequest(prompt=prompt, seed=derive("evaluation", seed, prompt.id))
                for prompt in chunk
            ]
            judge.ask_ahead(chunk)
            pictures = await pool.draw(requests, version)
            for prompt, picture in zip(chunk, pictures, strict=True):
                keep_some(prompt, picture)
            lines = await asyncio.gather(*map(judge.line, requests, pictures))
            if rounds:
                refining = Refining(pool, judge, version=version, keep=keep_some)
                await refining.add_rounds(lines, requests, pictures, rounds)
        finished += len(chunk)
        if on_progress is not None:
            on_progress(finished, len(prompts))
        return list(lines)

    starts = range(0, len(prompts), batch_size)
    try:
        chunks = await asyncio.gather(*(of_chunk(prompts[i : i + batch_size]) for i in starts))
    finally:
        judge.close()
    return [line for chunk in chunks for line in chunk]


def summarise(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Figures by sort: ``n``, and the means of what could be had.

    - ``per_question``: share of the oracle's questions answered yes;
    - ``all_right``: share of pictures in which the oracle finds all that was asked for, with its
      95 % interval in ``all_right_interval``;
    - ``strict``: the same, and nothing else is there;
    - ``extra``: share of pictures with more things than were asked for;
    - ``dvreward``: the verifier's reward, over ``scored`` pictures;
    - ``refined``: figures of rounds, see :func:`alphagrpo.eval.rounds.summarise_rounds`.

    Sorts without prompts are left out; a figure nobody could give is None.
    """
    figures: dict[str, dict[str, Any]] = {}
    for sort in SORTS:
        mine = [line for line in lines if line["sort"] == sort]
        if not mine:
            continue
        known = {key: [float(x[key]) for x in mine if x.get(key) is not None] for key in MEASURES}
        figures[sort] = {"n": len(mine)}
        figures[sort] |= {key: _mean(values) for key, values in known.items()}
        figures[sort]["scored"] = len(known["dvreward"])
        if known["all_right"]:
            figures[sort]["all_right_interval"] = list(share_interval(known["all_right"]))
        if refined := summarise_rounds(mine):
            figures[sort]["refined"] = refined
    return figures


def differences(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Paired difference (after - before) by sort and measure, over prompts known on both sides."""
    earlier = {line["id"]: line for line in before}
    found: dict[str, dict[str, Any]] = {}
    for sort in SORTS:
        for key in MEASURES:
            pairs = [
                (earlier[line["id"]].get(key), line.get(key))
                for line in after
                if line["sort"] == sort and line["id"] in earlier
            ]
            known = [(a, b) for a, b in pairs if a is not None and b is not None]
            if known:
                old, new = zip(*known, strict=True)
                found.setdefault(sort, {})[key] = paired_difference(old, new).to_json()
    return found


def _first_of_each_sort(prompts: Sequence[Prompt], count: int) -> set[str]:
    kept: set[str] = set()
    for sort in SORTS:
        kept |= {p.id for p in [p for p in prompts if sort_of(p) == sort][:count]}
    return kept


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
