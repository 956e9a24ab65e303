"""The arithmetic of space, against the tensors that are alive on the meta device at 7B's width."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alphagrpo.models.bagel import decoder as decoder_module
from alphagrpo.models.bagel import mlp_parts
from alphagrpo.models.bagel.cache import Cached
from alphagrpo.models.bagel.decoder import GEN, LanguageModel
from alphagrpo.models.bagel.norm import RmsNorm
from alphagrpo.models.bagel.sizes import BagelShape
from alphagrpo.models.bagel.space import PART_TOKENS, Practice, Space
from alphagrpo.models.lora import add_lora
from alphagrpo.models.unified import ALL_LAYERS

LLM = replace(BagelShape.released().config.llm, num_hidden_layers=3, vocab_size=8)
NOW = Practice(inputs_twice=False)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside it that are alive, and the most there were."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class FakeAttention(torch.autograd.Function):
    """What a fused kernel on grouped keys holds and gives; numbers there are none."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out.flatten(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


class FakeNorm(torch.autograd.Function):
    """A fused norm, as a GPU has one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1]))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return torch.empty_like(ctx.saved_tensors[0])


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    with torch.device("meta"):
        model = LanguageModel(LLM).to(torch.bfloat16)
    add_lora(model, lambda name: "_proj" in name, rank=32, alpha=64.0, seed=0)
    return model


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that a GPU has, in the place of those that a meta tensor would take."""
    monkeypatch.setattr(decoder_module, "attend", lambda q, k, v, *_: FakeAttention.apply(q, k, v))
    monkeypatch.setattr(RmsNorm, "forward", lambda _, x: FakeNorm.apply(x))
    monkeypatch.setattr(mlp_parts, "_autocast", lambda kind: nullcontext())


def live(model: LanguageModel, space: Space, run: Callable[[Tensor], Any]) -> float:
    """Bytes at the peak of ``run`` on a picture query of the space's size."""
    decoder, llm = model.model, LLM
    heads = (llm.num_key_value_heads, llm.head_dim)
    meta: dict[str, Any] = {"device": "meta", "dtype": torch.bfloat16}
    cached = [torch.empty(space.sequences, space.past, *heads, **meta) for _ in range(6)]
    past = [Cached(*pair) for pair in zip(cached[:3], cached[3:], strict=True)]
    position = torch.zeros(space.sequences, 1, device="meta", dtype=torch.int64)
    inputs = [
        torch.empty(space.sequences, n, llm.hidden_size, **meta) for n in (2, space.tokens - 2)
    ]
    known = [*model.parameters(), *cached, *inputs, position]
    with LiveBytes(known) as counted:
        run(decoder(*inputs, position, None, past, GEN).gen)
    for parameter in model.parameters():
        parameter.grad = None
    return counted.peak


PASSES = [(28, 1026, 239), (42, 1026, 3604)]
"""Sequences, tokens of a picture, and tokens read: of text to image and of refinement."""


@pytest.mark.parametrize("size", PASSES)
def test_a_forward_takes_what_is_counted(model: LanguageModel, size: tuple[int, int, int]) -> None:
    space = Space(LLM, NOW, *size)
    with torch.no_grad():
        peak = live(model, space, lambda gen: None)
    assert peak <= 2 * space.forward() <= 1.25 * peak


@pytest.mark.parametrize("layers", [0, 1, ALL_LAYERS])
@pytest.mark.parametrize("size", PASSES)
def test_a_replay_takes_what_is_counted(
    model: LanguageModel, size: tuple[int, int, int], layers: int
) -> None:
    space = Space(LLM, NOW, *size)
    model.model.recompute = layers
    peak = live(model, space, lambda gen: gen.sum().backward())
    assert peak <= 2 * space.replay(min(layers, 3)) <= 1.25 * peak


def test_parts_bound_what_an_mlp_takes() -> None:
    def inner(sequences: int) -> float:
        spaces = [
            Space(LLM, Practice(part_tokens=part), sequences, 1026, 239)
            for part in (None, PART_TOKENS)
        ]
        whole, parted = (space.replay(3) for space in spaces)
        return whole - parted

    assert inner(5) == 0, "5,130 tokens are one part"
    assert inner(28) > 2 * inner(14) > 0
