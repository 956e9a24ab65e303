"""Attention is tried at the run's own shapes before it is trusted to repeat itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from alphagrpo.config import RunConfig, load_config
from alphagrpo.errors import ConfigError
from alphagrpo.models.bagel.attention import CUDNN_LEAST_QUERIES, backend_of
from alphagrpo.models.unified import AttentionShape
from alphagrpo.policy.family import FAMILY
from alphagrpo.policy.repeatability import (
    REPEATS,
    attention_shapes,
    check_repeatable,
    try_attention,
)
from alphagrpo.shipped import locate
from tests.fakes import make_model

KINDS = ("token", "text", "thought", "picture")


class UnsteadyModel:
    """A fake whose attention gives every other call of one length other bits."""

    def __init__(self, queries: int) -> None:
        self.queries = queries

    def attention_trial(self, shape: AttentionShape) -> tuple[str, Callable[[], Tensor]]:
        calls = itertools.count()

        def call() -> Tensor:
            flips = shape.queries == self.queries and next(calls) % 2
            return torch.tensor([1.0 + 1e-7 * bool(flips)])

        return ("efficient" if shape.queries < 130 else "cudnn"), call


def released(name: str) -> RunConfig:
    return load_config(locate(f"deploy/configs/{name}.yaml"))


def test_the_shapes_are_those_of_tokens_texts_thoughts_and_pictures() -> None:
    config = released("bagel-7b-rt2i")
    shapes = list(attention_shapes(config, FAMILY.released_shape()))
    queries = {name: {s.queries for s in shapes if s.name == name} for name in KINDS}
    assert queries["token"] == {1}
    assert max(s.keys for s in shapes if s.name == "token") > 1024, "the longest thought's end"
    assert queries["thought"] == {config.task.max_think_tokens + 2}
    assert queries["picture"] == {1026}
    assert min(queries["text"]) < CUDNN_LEAST_QUERIES <= max(queries["text"])
    group = config.rollout.group_size
    assert 2 * group in {s.batch for s in shapes if s.name == "picture"}
    refined = attention_shapes(released("bagel-7b-srr"), FAMILY.released_shape())
    batches = {s.batch for s in refined if s.name == "picture"}
    assert 3 * group in batches, "three branches"
    assert len(batches) > 1, "drafts and evaluations too"


def test_on_a_gpu_short_blocks_never_get_cudnn() -> None:
    cuda = torch.device("cuda")
    assert {backend_of("auto", cuda, n) for n in (1, 2, 128, 129)} == {"efficient"}
    assert backend_of("auto", cuda, 130) == "cudnn"
    assert backend_of("efficient", cuda, 1026) == "efficient"
    assert backend_of("auto", torch.device("cpu"), 1026) == "matmul"


def test_a_model_on_a_cpu_repeats_itself_in_every_kernel() -> None:
    model = make_model()
    shapes = [
        AttentionShape("token", 3, 1, 21, causal=True),
        AttentionShape("picture", 2, 18, 40, causal=False),
    ]
    for kernel in ("matmul", "efficient", "math"):
        model.set_attention(kernel)
        trials = try_attention(model, shapes)
        assert [trial.kernel for trial in trials] == [kernel] * 2
        assert [trial.differing for trial in trials] == [0, 0]


@pytest.mark.parametrize(("queries", "remedy"), [(1, "math"), (1026, "efficient")])
def test_a_kernel_that_does_not_is_refused_with_the_remedy(queries: int, remedy: str) -> None:
    config = released("bagel-7b-rt2i")
    shape = FAMILY.released_shape()
    with pytest.raises(ConfigError, match=f"in {REPEATS // 2} of {REPEATS} calls") as refused:
        check_repeatable(UnsteadyModel(queries), config, shape)
    assert str(refused.value).endswith(f"set model.attention to {remedy}")
    trials = check_repeatable(UnsteadyModel(queries=-1), config, shape)
    assert {trial.kernel for trial in trials} == {"efficient", "cudnn"}


def test_the_setting_reaches_decoder_and_vision_transformer() -> None:
    model = make_model()
    model.set_attention("math")
    kernels = [module.kernel for module in model.modules() if hasattr(module, "kernel")]
    assert kernels == ["math"] * len(kernels)
    assert len(kernels) > 1
