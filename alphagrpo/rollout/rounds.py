"""Inference rounds: draft, reflect, refine, and (with the gate) keep the better of the two.

One coroutine serves the command line and the generator service; who draws and who scores is given
to it. The released scripts refine only pictures that the benchmark's own scorer marks wrong
(method: section 8); here the gate is DVReward, which knows the prompt and nothing of a benchmark.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alphagrpo.errors import ConfigError
from alphagrpo.options import Gate
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.seeds import derive
from alphagrpo.types import Prompt, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Draw = Callable[[Sequence[PictureRequest]], Awaitable[Sequence[Picture]]]
"""Draws the requested pictures, in order."""
ScorePicture = Callable[[Prompt, "NDArray[np.uint8]"], Awaitable[Score]]
"""Scores a picture [H, W, 3] of a prompt; raises ServiceError where no score could be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One picture of a chain: the draft (0), or a refinement of the picture held before it."""

    index: int
    seed: int
    picture: Picture
    score: Score | None
    """None where nobody scores."""
    kept: bool
    """Whether it is what the chain holds now."""
    refined_from: int | None
    """The round whose picture it began from."""


def round_seed(seed: int, index: int) -> int:
    """Seed of refinement ``index`` (from 1) of a picture drawn with ``seed``."""
    return derive("round", seed, index)


def check_rounds(rounds: int, gate: Gate, *, most: int, can_score: bool) -> None:
    """Raise ConfigError for rounds out of bounds, or a gate without anybody to score."""
    if not 0 <= rounds <= most:
        raise ConfigError(f"0 to {most} refinements may be asked for, got {rounds}; ask for fewer")
    if gate == "dvreward" and rounds and not can_score:
        raise ConfigError(
            "the DVReward gate needs decomposer and verifier, there are none; serve them, or set "
            "the gate to none to keep the last picture"
        )


async def draw_rounds(
    request: PictureRequest,
    *,
    rounds: int,
    gate: Gate,
    draw: Draw,
    score: ScorePicture | None = None,
) -> AsyncIterator[Round]:
    """Yield the draft and then each refinement, as soon as it is drawn and scored.

    With the gate a refinement is kept where its score is higher than that of the picture it began
    from, and the next one begins from the better of the two; without it the last is kept. The draw
    of round i depends on ``request`` and i alone.

    Args:
        request: the prompt and seed of the draft, or an edit with its picture.
        rounds: refinements after it.
        gate: which picture is held after a round.
        draw: who draws.
        score: who scores; needed for the gate, otherwise scores are only reported.

    Raises:
        ServiceError: from ``score``: a picture without a score is not let through a gate unseen.
    """
    (picture,) = await draw([request])
    current = Round(
        index=0,
        seed=request.seed,
        picture=picture,
        score=await score(request.prompt, picture.pixels) if score else None,
        kept=True,
        refined_from=None,
    )
    yield current
    for index in range(1, rounds + 1):
        seed = round_seed(request.seed, index)
        next_request = replace(
            request, seed=seed, start=current.picture.as_start(), purpose="refine"
        )
        (picture,) = await draw([next_request])
        new_score = await score(request.prompt, picture.pixels) if score else None
        refinement = Round(
            index=index,
            seed=seed,
            picture=picture,
            score=new_score,
            kept=gate == "none" or _is_better(new_score, current.score),
            refined_from=current.index,
        )
        current = refinement if refinement.kept else current
        yield refinement


def _is_better(new: Score | None, old: Score | None) -> bool:
    assert new is not None, "checked: a gate needs scores"
    assert old is not None, "checked: a gate needs scores"
    return new.value > old.value
