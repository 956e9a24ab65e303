"""Before and after: the same held-out prompts, the same seeds, two versions of the policy.

Two judges look at each picture. The *oracle* of a world that has one reads pixels and knows what
was asked; it is never a reward. The *verifier* answers the decomposer's questions, as in training,
so that a reward which rises while the oracle's figures do not is seen at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from alphagrpo.data import sort_of
from alphagrpo.eval.opinions import HeldOutJudges, Panel
from alphagrpo.eval.rounds import Refining
from alphagrpo.images import encode_png, image_hash
from alphagrpo.ports import PictureRequest
from alphagrpo.seeds import derive
from alphagrpo.types import SORTS

if TYPE_CHECKING:
    from alphagrpo.eval.lines import HeldOutLine
    from alphagrpo.ports import Picture, PictureSource
    from alphagrpo.types import Prompt

__all__ = ["HeldOutJudges", "evaluate", "first_of_each_sort"]

MAX_VERIFICATIONS = 8
"""Pictures of an evaluation in verification at once: enough to keep two engines busy."""
CHUNKS_AT_ONCE = 2
"""One is drawn while the other is judged."""


async def evaluate(
    pool: PictureSource,
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
) -> list[HeldOutLine]:
    """One line per prompt, in order; :func:`alphagrpo.eval.figures.summarise` has the figures.

    With ``rounds`` each picture is refined so often, see :mod:`alphagrpo.eval.rounds`. ``keep`` is
    called with content hash and PNG of the first ``num_kept`` pictures of each sort;
    ``on_progress`` with the pictures finished and their number in all. Pictures are judged while
    others are drawn.
    """
    kept_ids = {p.id for p in first_of_each_sort(prompts, num_kept)} if keep else set()
    panel = Panel(judges, asyncio.Semaphore(MAX_VERIFICATIONS))
    room, finished = asyncio.Semaphore(CHUNKS_AT_ONCE), 0

    def keep_some(prompt: Prompt, picture: Picture) -> None:
        if keep is not None and prompt.id in kept_ids:
            keep(image_hash(picture.pixels), encode_png(picture.pixels))

    async def of_chunk(chunk: Sequence[Prompt]) -> list[HeldOutLine]:
        nonlocal finished
        async with room:
            requests = [
                PictureRequest(prompt=prompt, seed=derive("evaluation", seed, prompt.id))
                for prompt in chunk
            ]
            panel.decompose_ahead(chunk)
            pictures = await pool.draw(requests, version)
            for prompt, picture in zip(chunk, pictures, strict=True):
                keep_some(prompt, picture)
            lines = await asyncio.gather(*map(panel.line, requests, pictures))
            if rounds:
                refining = Refining(pool, panel, version=version, keep=keep_some)
                lines = await refining.add_rounds(lines, requests, pictures, rounds)
        finished += len(chunk)
        if on_progress is not None:
            on_progress(finished, len(prompts))
        return lines

    starts = range(0, len(prompts), batch_size)
    try:
        chunks = await asyncio.gather(*(of_chunk(prompts[i : i + batch_size]) for i in starts))
    finally:
        panel.close()
    return [line for chunk in chunks for line in chunk]


def first_of_each_sort(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """The first ``count`` prompts of each sort, or as many as there are, sort by sort."""
    return [
        prompt
        for sort in SORTS
        for prompt in [one for one in prompts if sort_of(one) == sort][:count]
    ]
