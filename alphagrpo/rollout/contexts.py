"""What the policy has read when it thinks and draws: built the same way at rollout and at replay.

Both sides call these functions with batches of one shape, one order and one padding, which is why
their log-probabilities agree bit for bit. Every piece of text is framed ``<start> ids <end>``.

Legend of shapes: G sample, L sampled token, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphagrpo.kernels import token_log_probs
from alphagrpo.models.unified import Context, UnifiedModel, pack

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a thought begins from, and what guidance compares with (method: section 2.1)."""

    full: Context
    """[system][prompt]"""
    text_free: Context
    """[system]: the branch that guidance leads away from."""

    def expand(self, batch: int) -> Prefix:
        """The prefix of one prompt seen by all samples of its group, without a copy."""
        return Prefix(self.full.expand(batch), self.text_free.expand(batch))


@dataclass(frozen=True, slots=True)
class ReadThoughts:
    """A group's thoughts, read again as whole pieces with their sampled ids as targets."""

    context: Context
    """[prefix][thought] of each sample."""
    log_probs: Tensor
    """[G, L] under the unfiltered softmax at temperature 1; 0 where nothing was sampled."""
    entropy: Tensor
    """[G, L] of the distribution each id was sampled from; 0 where nothing was sampled."""
    mask: Tensor
    """[G, L] bool: positions that were sampled. A forced end is none of them."""


@torch.no_grad()
def read_prefix(model: UnifiedModel, system: Ids, prompts: Sequence[Ids]) -> Prefix:
    """Read the system prompt once, then each of ``prompts`` after it: a batch of len(prompts).

    A constant at replay too: the gradient of a thought ends at its own tokens
    (method: section 1.2, "What the gradient reaches").
    """
    shared = read_pieces(model, model.empty_context(1), [system])[0]
    if len(prompts) > 1:
        shared = shared.expand(len(prompts))
    return Prefix(read_pieces(model, shared, prompts)[0], shared)


def read_pieces(
    model: UnifiedModel, context: Context, pieces: Sequence[Ids]
) -> tuple[Context, Tensor]:
    """Read one framed piece of text per sequence, padded on the right to the longest.

    Returns the longer context and hidden states [B, 1 + L + 1, D].
    """
    ids, lengths = frame(model, pieces, context.mask.device)
    return model.read_text(context, ids, lengths)


def frame(
    model: UnifiedModel, pieces: Sequence[Ids], device: torch.device
) -> tuple[Tensor, Tensor]:
    """``<start> ids <end>`` of each piece as [B, L + 2] (padded with ends) and lengths [B]."""
    longest = max(len(piece) for piece in pieces)
    rows = np.full((len(pieces), longest + 2), model.special.text_end, np.int64)
    rows[:, 0] = model.special.text_start
    for row, piece in zip(rows, pieces, strict=True):
        row[1 : 1 + len(piece)] = piece
    lengths = np.array([len(piece) + 2 for piece in pieces])
    return torch.from_numpy(rows).to(device), torch.from_numpy(lengths).to(device)


def read_thoughts(
    model: UnifiedModel, context: Context, thoughts: Sequence[Ids], finished: Sequence[bool]
) -> ReadThoughts:
    """Read sampled thoughts again, each as one piece, and score the ids that were sampled.

    A thought that ended by itself already holds its end id, which is scored; one that was cut gets
    an end id that is read but not scored (method: section 11, item 6). With gradient enabled, both
    the scores and the returned context are differentiable.

    Args:
        model: the policy.
        context: [prefix] of each sample, G sequences.
        thoughts: the sampled ids, the end id last where it was sampled.
        finished: whether it was.
    """
    inner = [ids[:-1] if done else ids for ids, done in zip(thoughts, finished, strict=True)]
    read, hidden = read_pieces(model, context, inner)
    counts = torch.tensor([len(ids) for ids in thoughts], device=hidden.device)
    length = hidden.shape[1] - 1
    mask = torch.arange(length, device=hidden.device)[None, :] < counts[:, None]
    targets = np.concatenate([np.asarray(ids, np.int64) for ids in thoughts])
    # The state at <start> predicts the first id, and so on; padding is never scored.
    scored, entropy = token_log_probs(
        hidden[:, :-1][mask], model.text_head(), torch.from_numpy(targets).to(hidden.device)
    )
    zeros = torch.zeros(mask.shape, device=hidden.device)
    return ReadThoughts(
        context=read,
        log_probs=zeros.masked_scatter(mask, scored),
        entropy=zeros.masked_scatter(mask, entropy.detach()),
        mask=mask,
    )


@dataclass(frozen=True, slots=True)
class Branches:
    """The packed contexts of one picture batch, by the number of guidance branches."""

    conditional: Context
    guided: Context
    """(conditional, text-free), 2 B sequences."""

    @classmethod
    def of(cls, conditional: Context, text_free: Context) -> Branches:
        """Pack once what every denoising step uses. Contexts are constants for the picture."""
        conditional = conditional.detach()
        return cls(conditional, pack([conditional, text_free.detach()]))

    def velocities(
        self, model: UnifiedModel, x: Tensor, t: float, grid: tuple[int, int], num_branches: int
    ) -> tuple[Tensor, ...]:
        """Each branch's velocity [B, N, C] at time ``t``, all from one forward."""
        context = self.conditional if num_branches == 1 else self.guided
        times = torch.full((num_branches * x.shape[0],), t, dtype=torch.float32, device=x.device)
        latents = x if num_branches == 1 else x.repeat(num_branches, 1, 1)
        return model.velocity(context, latents, times, grid).chunk(num_branches)
