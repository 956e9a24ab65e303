"""What the policy has read when it thinks and draws: built the same way at rollout and at replay.

Both sides call these functions with batches of one shape, one order and one padding, which is why
their log-probabilities agree bit for bit. Every piece of text is framed ``<start> ids <end>``.

Legend of shapes: G sample, L sampled token, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphagrpo.kernels import token_log_probs
from alphagrpo.models.unified import Context, UnifiedModel, pack

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a thought begins from, and what guidance compares with (method: section 2)."""

    full: Context
    """[system][prompt], or [system][picture][prompt]"""
    text_free: Context
    """[system], or [system][picture]: the branch that text guidance leads away from."""
    image_free: Context | None = None
    """[system][prompt] of a refinement: the branch that image guidance leads away from."""

    def expand(self, batch: int) -> Prefix:
        """The prefix of one prompt seen by all samples of its group, without a copy."""
        image_free = self.image_free
        return Prefix(
            self.full.expand(batch),
            self.text_free.expand(batch),
            None if image_free is None else image_free.expand(batch),
        )


class ImageConditions(NamedTuple):
    """Pictures as conditions: B of them, or one that all samples of a group see."""

    latents: Tensor
    """[B, N, C]"""
    pixels: NDArray[np.uint8]
    """[B, H, W, 3]"""
    grid: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ScoredThoughts:
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
def read_prefix(
    model: UnifiedModel,
    system: Ids | None,
    prompts: Sequence[Ids],
    pictures: ImageConditions | None = None,
    *,
    image_branch: bool = False,
) -> Prefix:
    """Read the system prompt once, then pictures (if any) and ``prompts``: a batch of len(prompts).

    A constant at replay too: the gradient of a thought ends at its own tokens
    (method: section 1.2, "What the gradient reaches").

    Args:
        model: the policy.
        system: ids of the system prompt; None where there is none.
        prompts: B pieces of text, read last.
        pictures: B pictures, read between: latents first, then pixels (method: section 10).
        image_branch: whether guidance will ask for the image-free branch.
    """
    shared = model.empty_context(1)
    if system is not None:
        shared = read_pieces(model, shared, [system])[0]
    if len(prompts) > 1:
        shared = shared.expand(len(prompts))
    if pictures is None:
        return Prefix(read_pieces(model, shared, prompts)[0], shared)
    read = model.read_latents(shared, pictures.latents, pictures.grid)
    read = model.read_pixels(read, model.vision_pixels(pictures.pixels))
    image_free = read_pieces(model, shared, prompts)[0] if image_branch else None
    return Prefix(read_pieces(model, read, prompts)[0], read, image_free)


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
) -> ScoredThoughts:
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
    return ScoredThoughts(
        context=read,
        log_probs=zeros.masked_scatter(mask, scored),
        entropy=zeros.masked_scatter(mask, entropy.detach()),
        mask=mask,
    )


@dataclass(frozen=True, slots=True)
class Branches:
    """The contexts of one picture batch: conditional, text-free, and (for refinements) image-free.

    Contexts are constants for the picture. Packs of several branches are built when a step first
    asks for them and then kept: a refinement at 7B holds gigabytes in each.
    """

    contexts: tuple[Context, ...]
    _packs: dict[int, Context] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls, conditional: Context, text_free: Context, image_free: Context | None = None
    ) -> Branches:
        """The branches in the order of :meth:`alphagrpo.flow.Guidance.branches`."""
        contexts = [conditional.detach(), text_free.detach()]
        if image_free is not None:
            contexts.append(image_free.detach())
        return cls(tuple(contexts))

    @classmethod
    def after(cls, prefix: Prefix, conditional: Context) -> Branches:
        """The branches of pictures drawn from ``conditional``, which went on from ``prefix``."""
        return cls.of(conditional, prefix.text_free, prefix.image_free)

    def packed(self, num_branches: int) -> Context:
        """The first ``num_branches`` contexts of B sequences as one of num_branches * B."""
        if num_branches == 1:
            return self.contexts[0]
        if num_branches not in self._packs:
            self._packs[num_branches] = pack(self.contexts[:num_branches])
        return self._packs[num_branches]

    def velocities(
        self, model: UnifiedModel, x: Tensor, t: float, grid: tuple[int, int], num_branches: int
    ) -> tuple[Tensor, ...]:
        """Each branch's velocity [B, N, C] at time ``t``, all from one forward."""
        context = self.packed(num_branches)
        times = torch.full((num_branches * x.shape[0],), t, dtype=torch.float32, device=x.device)
        latents = x if num_branches == 1 else x.repeat(num_branches, 1, 1)
        return model.velocity(context, latents, times, grid).chunk(num_branches)
