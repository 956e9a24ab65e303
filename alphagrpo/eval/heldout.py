"""Before and after: the same held-out prompts, the same seeds, two versions of the policy.

Two judges look at each picture. The *oracle* of a world that has one reads pixels and knows what
was asked; it is never a reward. The *verifier* answers the decomposer's questions, as in training,
so that a reward which rises while the oracle's figures do not is seen at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alphagrpo.data import sort_of
from alphagrpo.errors import ServiceError
from alphagrpo.eval.paired import paired_difference, share_interval
from alphagrpo.ports import PictureRequest
from alphagrpo.rollout.scoring import as_png, picture_hash
from alphagrpo.seeds import derive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alphagrpo.algorithms.rewards import RewardProgram
    from alphagrpo.eval.oracles import Oracle
    from alphagrpo.ports import Decomposer, Picture, RolloutPool, Verifier
    from alphagrpo.types import Prompt

    Pixels = NDArray[np.uint8]

SORTS = ("plain", "thought")
MEASURES = ("per_question", "all_right", "strict", "dvreward")
MAX_VERIFICATIONS = 8
"""Pictures of an evaluation in verification at once: enough to keep two engines busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutJudges:
    """Who looks at held-out pictures. Any of them may be missing; its figures are then null."""

    oracle: Oracle | None = None
    decomposer: Decomposer | None = None
    verifier: Verifier | None = None
    program: RewardProgram | None = None


async def evaluate(
    pool: RolloutPool,
    prompts: Sequence[Prompt],
    judges: HeldOutJudges,
    *,
    version: int,
    seed: int,
    batch_size: int = 64,
    keep: Callable[[str, bytes], object] | None = None,
    num_kept: int = 24,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """One line (a JSON object) per prompt, in order; see :func:`summarise` for their meaning.

    ``keep`` is called with content hash and PNG of the first ``num_kept`` pictures of each sort;
    ``on_progress`` with pictures drawn and wanted. Pictures are verified while others are drawn.
    """
    requests = [
        PictureRequest(prompt=prompt, seed=derive("evaluation", seed, prompt.id))
        for prompt in prompts
    ]
    kept = _first_of_each_sort(prompts, num_kept) if keep is not None else set()
    limit = asyncio.Semaphore(MAX_VERIFICATIONS)
    pending: list[asyncio.Task[dict[str, Any]]] = []
    for start in range(0, len(requests), batch_size):
        chunk = requests[start : start + batch_size]
        for request, picture in zip(chunk, await pool.draw(chunk, version), strict=True):
            if keep is not None and request.prompt.id in kept:
                keep(picture_hash(picture.pixels), as_png(picture.pixels))
            line = _judge(request, picture, judges, limit)
            pending.append(asyncio.create_task(line))
        if on_progress is not None:
            on_progress(len(pending), len(requests))
    return list(await asyncio.gather(*pending))


def summarise(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Figures by sort: ``n``, and the means of what could be had.

    - ``per_question``: share of the oracle's questions answered yes;
    - ``all_right``: share of pictures in which the oracle finds all that was asked for, with its
      95 % interval in ``all_right_interval``;
    - ``strict``: the same, and nothing else is there;
    - ``dvreward``: the verifier's reward, over ``scored`` pictures.

    Sorts without prompts are left out; a figure nobody could give is None.
    """
    figures: dict[str, dict[str, Any]] = {}
    for sort in SORTS:
        mine = [line for line in lines if line["sort"] == sort]
        if not mine:
            continue
        known = {key: [float(x[key]) for x in mine if x[key] is not None] for key in MEASURES}
        figures[sort] = {"n": len(mine)}
        figures[sort] |= {key: _mean(values) for key, values in known.items()}
        figures[sort]["scored"] = len(known["dvreward"])
        if known["all_right"]:
            figures[sort]["all_right_interval"] = list(share_interval(known["all_right"]))
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
                (earlier[line["id"]][key], line[key])
                for line in after
                if line["sort"] == sort and line["id"] in earlier
            ]
            known = [(a, b) for a, b in pairs if a is not None and b is not None]
            if known:
                old, new = zip(*known, strict=True)
                found.setdefault(sort, {})[key] = paired_difference(old, new).to_json()
    return found


async def _judge(
    request: PictureRequest, picture: Picture, judges: HeldOutJudges, limit: asyncio.Semaphore
) -> dict[str, Any]:
    prompt = request.prompt
    line: dict[str, Any] = {
        "id": prompt.id,
        "sort": sort_of(prompt),
        "prompt": prompt.text,
        "thought": picture.thought,
        "picture": picture_hash(picture.pixels),
        "seed": request.seed,
        "version": picture.policy_version,
    }
    line |= _by_oracle(prompt, picture.pixels, judges.oracle)
    async with limit:
        return line | await _by_verifier(prompt, picture.pixels, judges)


def _by_oracle(prompt: Prompt, pixels: Pixels, oracle: Oracle | None) -> dict[str, Any]:
    if oracle is None:
        return {"oracle": [], "per_question": None, "all_right": None, "strict": None}
    opinion = oracle(prompt, pixels)
    right = [yes for _, yes in opinion.answers]
    return {
        "oracle": [{"question": question.text, "yes": yes} for question, yes in opinion.answers],
        "per_question": sum(right) / len(right),
        "all_right": opinion.all_right,
        "strict": opinion.strict,
    }


async def _by_verifier(prompt: Prompt, pixels: Pixels, judges: HeldOutJudges) -> dict[str, Any]:
    nothing: dict[str, Any] = {"verdicts": [], "dvreward": None, "invalid_reason": ""}
    if judges.decomposer is None or judges.verifier is None or judges.program is None:
        return nothing
    try:
        made = await judges.decomposer.decompose(prompt)
        asked = judges.program.questions(made)
        verdicts = await judges.verifier.verify(pixels, asked)
    except ServiceError as error:
        return nothing | {"invalid_reason": f"{type(error).__name__}: {error}"}
    score = judges.program.score(made, verdicts)
    return {
        "verdicts": [
            {"question": question.text, "kind": question.kind, "p_yes": verdict.p_yes}
            for question, verdict in zip(asked, verdicts, strict=True)
        ],
        "dvreward": None if score is None else score.reward,
        "invalid_reason": "a verdict is missing" if score is None else "",
    }


def _first_of_each_sort(prompts: Sequence[Prompt], count: int) -> set[str]:
    kept: set[str] = set()
    for sort in SORTS:
        kept |= {p.id for p in [p for p in prompts if sort_of(p) == sort][:count]}
    return kept


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
