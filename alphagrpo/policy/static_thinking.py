"""Sampling thoughts in buffers that stay where they are: on a GPU one launch a token.

A token of a 7B model is 2,500 kernels, which take a host far longer to launch than a GPU to run.
Here a token is read, sampled and checked for the end without the host: as a CUDA graph, one for
each length that attention sees, rounded up to a bucket. :func:`alphagrpo.policy.thinking.think`
is the reference, and gives the same ids.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from alphagrpo.config.schema import SamplingParams
from alphagrpo.models.unified import Context, UnifiedModel
from alphagrpo.options import Thinking
from alphagrpo.policy.thinking import Thought, ThoughtSampler, pick, think, thoughts_of, uniforms
from alphagrpo.policy.working import BUCKET, samples_eagerly

log = logging.getLogger(__name__)

CHECK_EVERY = 16
"""Tokens between two looks at whether all rows have ended: each look waits for the GPU."""


def thought_sampler(model: UnifiedModel, how: Thinking, device: torch.device) -> ThoughtSampler:
    """What samples thoughts with ``model``: graphs on a GPU, the reference on a CPU.

    ``static`` takes buffers without graphs, ``eager`` the reference, wherever the model is.
    """
    if samples_eagerly(how, device.type):
        return partial(think, model)
    return StaticThinker(model, graphs=how == "auto")


class StaticThinker:
    """See :class:`alphagrpo.policy.thinking.ThoughtSampler`.

    Buffers and graphs are kept for the next batch of the same size and settings, whatever weights
    the model has by then. Rows that have ended stay in the batch, unlike the reference's.
    """

    def __init__(self, model: UnifiedModel, *, graphs: bool) -> None:
        self._model, self._graphs = model, graphs
        self._loop: TokenLoop | None = None

    @torch.no_grad()
    def __call__(
        self,
        context: Context,
        *,
        seeds: Sequence[int],
        samples: Sequence[int],
        sampling: SamplingParams,
        max_tokens: int,
    ) -> list[Thought]:
        """As :func:`alphagrpo.policy.thinking.think`."""
        loop = self._loop_for(context, sampling, max_tokens)
        loop.begin(context, uniforms(seeds, samples, max_tokens))
        for index in range(max_tokens):
            loop.advance(_bucket(context.length + index + 1))
            if index % CHECK_EVERY == CHECK_EVERY - 1 and loop.ended():
                break
        return thoughts_of(loop.ids_so_far(), self._model.special.text_end)

    def _loop_for(self, context: Context, sampling: SamplingParams, max_tokens: int) -> TokenLoop:
        room = _bucket(context.length + max_tokens)
        loop = self._loop
        if loop is None or not loop.serves(context.batch, room, sampling, max_tokens):
            self._loop = None  # before the next one's buffers are there
            loop = TokenLoop(self._model, context, room, sampling, max_tokens, graphs=self._graphs)
            self._loop = loop
        return loop


class TokenLoop:
    """The buffers of one batch, and the step that goes on from them by one token."""

    def __init__(
        self,
        model: UnifiedModel,
        context: Context,
        room: int,
        sampling: SamplingParams,
        max_tokens: int,
        *,
        graphs: bool = False,
    ) -> None:
        self._model, self._sampling = model, sampling
        batch, device = context.batch, context.mask.device
        self._reader = model.token_reader(batch, room)
        self._u = torch.zeros(batch, max_tokens, device=device)
        self._out = torch.zeros(batch, max_tokens, dtype=torch.int64, device=device)
        self._ids = torch.zeros(batch, dtype=torch.int64, device=device)
        self._live = torch.ones(batch, dtype=torch.bool, device=device)
        self._index = torch.zeros(1, dtype=torch.int64, device=device)
        self._captured = CapturedSteps(self.step) if graphs else None

    def serves(self, batch: int, room: int, sampling: SamplingParams, max_tokens: int) -> bool:
        """Whether a batch of this size and these settings can use it."""
        size = (batch, max_tokens) == tuple(self._out.shape)
        return size and self._reader.room >= room and self._sampling == sampling

    def begin(self, context: Context, u: Tensor) -> None:
        """Start a thought for each sequence of ``context`` from ``u`` [B, max_tokens]."""
        self._reader.load(context)
        self._u.copy_(u)
        self._out.fill_(-1)
        self._ids.fill_(self._model.special.text_start)
        self._live.fill_(True)
        self._index.zero_()

    def advance(self, seen: int) -> None:
        """One token further; attention sees the first ``seen`` places."""
        if self._captured is None:
            self.step(seen)
        else:
            self._captured.run(seen)

    def step(self, seen: int) -> None:
        """Read the last ids, sample the next; nothing is read back from the device."""
        hidden = self._reader.read(self._ids, seen)
        u = self._u.index_select(1, self._index)[:, 0]
        ids = pick(self._model.text_logits(hidden), u, self._sampling)
        self._out.index_copy_(1, self._index, torch.where(self._live, ids, -1)[:, None])
        self._live.logical_and_(ids != self._model.special.text_end)
        self._ids.copy_(ids)
        self._index.add_(1)

    def ended(self) -> bool:
        """Whether no row goes on."""
        return not bool(self._live.any())

    def ids_so_far(self) -> Tensor:
        """[B, max_tokens] on the CPU, -1 where nothing was sampled."""
        return self._out.cpu()


class CapturedSteps:
    """A step's CUDA graphs, one for each length that it sees, made at the second such step."""

    def __init__(self, step: Callable[[int], None]) -> None:
        self._step = step
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._refused = False

    def run(self, seen: int) -> None:
        """One step: the graph of ``seen``, or eagerly where there is none yet."""
        graph = self._graphs.get(seen)
        if graph is not None:
            graph.replay()
            return
        # The first step of a length runs as it is: whatever is made at first use is made now.
        self._step(seen)
        if not self._refused:
            self._capture(seen)

    def _capture(self, seen: int) -> None:
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        try:
            graph = torch.cuda.CUDAGraph()
            # Other threads of the process may use the GPU meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self._step(seen)
        except RuntimeError as error:
            self._refused = True
            log.warning("thoughts are sampled without CUDA graphs, which is slower: %s", error)
            return
        self._graphs[seen] = graph


def _bucket(length: int) -> int:
    return -(-length // BUCKET) * BUCKET
