"""Whether the same inputs give the same bits on this card: asked before a run, of its own shapes.

A group that is drawn again must be the same group. Kernels whose order of summation changes from
call to call break that, and nothing else shows it: their results are as good (docs/gpu.md).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from alphagrpo.config import RunConfig
from alphagrpo.errors import ConfigError
from alphagrpo.models.unified import AttentionShape, UnifiedModel
from alphagrpo.policy.family import PolicyShape
from alphagrpo.policy.loads import drawn_loads
from alphagrpo.policy.working import tokens_per_image

log = logging.getLogger(__name__)

REPEATS = 20
"""Calls on one input. The kernel that failed gave another result in every second call or so."""
SHORT_PIECES = (2, 17, 64, 129, 130)
"""Tokens of prompts and short thoughts: around the length at which the kernel changes."""


class Trial(NamedTuple):
    """One shape's calls on one input."""

    shape: AttentionShape
    kernel: str
    differing: int
    """Calls whose result was not the first one's, of :data:`REPEATS`."""


def attention_shapes(config: RunConfig, shape: PolicyShape) -> Iterator[AttentionShape]:
    """Every kind of block that the run reads: tokens, pieces of text, thoughts, pictures."""
    picture = tokens_per_image(config, shape) + 2
    for load in drawn_loads(config, shape):
        batch, prefix = load.samples, load.prefix
        if load.thought:
            thought, read = load.thought + 2, load.length + 2
            for keys in (prefix + 1, prefix + thought // 2, read):
                yield AttentionShape("token", batch, 1, keys, causal=True)
            yield AttentionShape("thought", batch, thought, read, causal=True)
        for piece in SHORT_PIECES:
            yield AttentionShape("text", batch, piece, prefix + piece, causal=True)
        keys = load.length + 2 + picture
        yield AttentionShape("picture", batch * load.branches, picture, keys, causal=False)


def try_attention(model: UnifiedModel, shapes: Sequence[AttentionShape]) -> list[Trial]:
    """Call attention again and again on one random input of each shape."""
    return [_try(model, shape) for shape in shapes]


@torch.no_grad()
def _try(model: UnifiedModel, shape: AttentionShape) -> Trial:
    kernel, call = model.attention_trial(shape)
    first, differing = call(), 0
    for _ in range(REPEATS - 1):
        differing += not torch.equal(call(), first)
    return Trial(shape, kernel, differing)


def check_repeatable(model: UnifiedModel, config: RunConfig, shape: PolicyShape) -> list[Trial]:
    """Try the run's shapes on its card, and say which kernel each has.

    Raises:
        ConfigError: for a kernel that gives one input several results.
    """
    trials = try_attention(model, list(dict.fromkeys(attention_shapes(config, shape))))
    for trial in trials:
        if trial.differing:
            raise ConfigError(
                "attention must give the same bits whenever it is given the same input, or groups "
                f"cannot be drawn again; {trial.kernel} gave other bits in {trial.differing} of "
                f"{REPEATS} calls for {trial.shape}: set model.attention to "
                f"{'math' if trial.kernel == 'efficient' else 'efficient'}"
            )
    kernels = dict.fromkeys(f"{trial.shape.queries} by {trial.kernel}" for trial in trials)
    log.info("attention repeats itself to the bit; queries: %s", ", ".join(kernels))
    return trials
