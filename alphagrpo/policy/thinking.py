"""Sampling thoughts for a whole batch at once, each from its own stream of random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from alphagrpo.config.schema import SamplingParams
from alphagrpo.kernels.philox import philox, uniform
from alphagrpo.models.unified import Context, UnifiedModel
from alphagrpo.policy.contexts import Ids

THOUGHT_STREAM = 1
"""Last word of the counter; picture noise has 0 there, so that no number is used twice."""


@dataclass(frozen=True, slots=True)
class Thought:
    """One sampled text."""

    ids: Ids
    """The sampled ids in order, the end id included if it was sampled."""
    finished: bool
    """Whether the end id was sampled; else the token limit cut the text."""


class ThoughtSampler(Protocol):
    """Samples thoughts with a model it knows: :func:`think`, or what gives the same ids faster."""

    def __call__(
        self,
        context: Context,
        *,
        seeds: Sequence[int],
        samples: Sequence[int],
        sampling: SamplingParams,
        max_tokens: int,
    ) -> list[Thought]:
        """One thought per sequence of ``context``, at most ``max_tokens`` ids each."""
        ...


def uniforms(seeds: Sequence[int], samples: Sequence[int], length: int) -> Tensor:
    """Uniform numbers [B, length] in [0, 1): a function of (seed, sample, token index) alone."""
    words, _ = philox(
        torch.tensor(seeds, dtype=torch.int64)[:, None],
        (
            torch.arange(length, dtype=torch.int64)[None, :],
            torch.tensor(samples, dtype=torch.int64)[:, None],
            torch.zeros(1, 1, dtype=torch.int64),
            torch.full((1, 1), THOUGHT_STREAM, dtype=torch.int64),
        ),
    )
    return uniform(words)


def pick(logits: Tensor, u: Tensor, sampling: SamplingParams) -> Tensor:
    """One id per row of ``logits`` [B, V] by inversion of the filtered distribution at ``u`` [B].

    Top-p keeps the likeliest ids up to and including the one that reaches ``top_p``; temperature 0
    takes the likeliest.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    if len(logits) == 1 and logits.is_cuda:
        # CUDA's cumulative sum of a single row adds in an order that changes from call to call.
        return pick(logits.expand(2, -1), u.expand(2), sampling)[:1]
    probs, ids = (logits / sampling.temperature).softmax(dim=-1).sort(descending=True, stable=True)
    reached = probs.cumsum(dim=-1)
    kept = torch.where(reached - probs < sampling.top_p, probs, 0.0).cumsum(dim=-1)
    # Counting the ids below the sampled point inverts the distribution; u < 1 keeps it inside.
    place = (kept <= u[:, None] * kept[:, -1:]).sum(dim=-1)
    place = place.clamp_max((reached - probs < sampling.top_p).sum(dim=-1) - 1)
    return ids.gather(-1, place[:, None])[:, 0]


@torch.no_grad()
def think(
    model: UnifiedModel,
    context: Context,
    *,
    seeds: Sequence[int],
    samples: Sequence[int],
    sampling: SamplingParams,
    max_tokens: int,
) -> list[Thought]:
    """Sample one thought per sequence of ``context``, at most ``max_tokens`` ids each.

    Rows that have ended are dropped from the batch once they are half of it. That may change later
    logits in their last bit, never the scores that are trained on: those come from reading the
    finished thought again (see :mod:`alphagrpo.policy.contexts`).
    """
    batch, device, end = context.batch, context.mask.device, model.special.text_end
    u = uniforms(seeds, samples, max_tokens).to(device)
    out = np.full((batch, max_tokens), -1, np.int64)
    rows = torch.arange(batch, device=device)
    live = torch.ones(batch, dtype=torch.bool, device=device)
    ids = torch.full((batch,), model.special.text_start, device=device)
    for index in range(max_tokens):
        context, hidden = model.read_text(context, ids[:, None], live.long())
        ids = pick(model.text_logits(hidden[:, -1]), u[rows, index], sampling)
        kept = live.cpu().numpy()
        out[rows.cpu().numpy()[kept], index] = ids.cpu().numpy()[kept]
        live = live & (ids != end)
        left = int(live.sum())
        if left == 0:
            break
        if left <= len(rows) // 2:
            keep = live.nonzero()[:, 0]
            context, rows, ids, live = context.rows(keep), rows[keep], ids[keep], live[keep]
    return thoughts_of(torch.from_numpy(out), end)


def thoughts_of(ids: Tensor, end: int) -> list[Thought]:
    """The thoughts in ``ids`` [B, L], each row's sampled ids and then -1."""
    return [_thought(row, end) for row in ids.numpy()]


def _thought(row: np.ndarray, end: int) -> Thought:
    ids = row[: int((row >= 0).sum())].copy()
    return Thought(ids=ids, finished=bool(ids[-1] == end))
