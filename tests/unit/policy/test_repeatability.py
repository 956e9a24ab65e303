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
    kinds = {shape.name: shape for shape in shapes}
    assert kinds["rt2i token"].queries == 1
    assert kinds["rt2i token"].keys > 1024, "at the end of the longest thought"
    assert kinds["rt2i thought"].queries == config.task.max_think_tokens + 2
    picture = kinds["rt2i picture"]
    assert (picture.batch, picture.queries, picture.causal) == (2 * 14, 1026, False)
    short = [shape.queries for shape in shapes if shape.name == "rt2i text"]
    assert min(short) < CUDNN_LEAST_QUERIES <= max(short)
    refined = list(attention_shapes(released("bagel-7b-srr"), FAMILY.released_shape()))
    assert max(shape.batch for shape in refined) == 3 * 14


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
