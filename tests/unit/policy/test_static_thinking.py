"""Thoughts sampled in buffers that stay: the reference's ids, and no word to the host meanwhile."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from alphagrpo.config.sampling import SamplingParams
from alphagrpo.config.schema import LoraConfig
from alphagrpo.models.bagel import tiny_config
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.lora import adapters
from alphagrpo.models.unified import Context
from alphagrpo.policy import static_thinking
from alphagrpo.policy.contexts import read_prefix
from alphagrpo.policy.static_thinking import StaticThinker, TokenLoop, thought_sampler
from alphagrpo.policy.thinking import Thought, ThoughtSampler, think
from alphagrpo.policy.trainable import add_adapters
from tests.fakes import make_model

SAMPLING = SamplingParams(temperature=1.0, top_p=0.95)
CPU = torch.device("cpu")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Bagel:
    """With adapters that are not zero and likelier end ids: thoughts of all lengths."""
    model = make_model("lora", seed=2).requires_grad_(False)
    logits, likelier = model.text_logits, torch.zeros(40)
    likelier[model.special.text_end] = 1.2
    monkeypatch.setattr(model, "text_logits", lambda hidden: logits(hidden) + likelier)
    return model


def prefix(model: Bagel, prompts: int = 8) -> Context:
    """Prompts of several lengths, so that shorter rows are padded."""
    pieces = [np.arange(10, 11 + i % 3) for i in range(prompts)]
    return read_prefix(model, np.array([9, 10]), pieces).full


def thoughts(
    sampler: ThoughtSampler, context: Context, most: int = 24, first_seed: int = 0
) -> list[Thought]:
    seeds = list(range(first_seed, first_seed + context.batch))
    return sampler(
        context, seeds=seeds, samples=[0] * len(seeds), sampling=SAMPLING, max_tokens=most
    )


def reference(model: Bagel, context: Context, **arguments: int) -> list[Thought]:
    return thoughts(thought_sampler(model, "eager", CPU), context, **arguments)


def assert_same(got: list[Thought], want: list[Thought]) -> None:
    assert [t.ids.tolist() for t in got] == [t.ids.tolist() for t in want]
    assert [t.finished for t in got] == [t.finished for t in want]


@pytest.mark.parametrize("bucket", [1, 8, 256])
def test_the_ids_are_the_references(
    model: Bagel, bucket: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_thinking, "BUCKET", bucket)
    context = prefix(model)
    want = reference(model, context)
    lengths = {len(thought.ids) for thought in want}
    assert len(lengths) > 3, "some end early, some late"
    assert {thought.finished for thought in want} == {True, False}
    assert_same(thoughts(StaticThinker(model, graphs=False), context), want)


def test_buffers_are_used_again_with_other_prompts_and_other_weights(model: Bagel) -> None:
    sampler = StaticThinker(model, graphs=False)
    context = prefix(model)
    thoughts(sampler, context)
    loop = sampler._loop
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.mul_(-3.0)
    shorter = read_prefix(model, np.array([9]), [np.array([12])] * 8).full
    want = reference(model, shorter, first_seed=50)
    assert_same(thoughts(sampler, shorter, first_seed=50), want)
    assert sampler._loop is loop
    thoughts(sampler, prefix(model, 3))
    assert sampler._loop is not loop, "another batch has other buffers"


def test_loading_a_context_brings_converted_adapters_up_to_date() -> None:
    """A graph reads them without asking whether they have changed."""
    model = make_model("lora").requires_grad_(False)
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    context = read_prefix(model, None, [np.array([12])]).full
    reader = model.token_reader(1, 16)
    reader.load(context)
    with torch.no_grad():
        reader.read(torch.tensor([1]), 8)
        adapter = next(iter(adapters(model).values()))
        converted = adapter.factors(torch.bfloat16)
        adapter.lora_b.mul_(-2.0)
    reader.load(context)
    assert torch.equal(converted[1], adapter.lora_b.to(torch.bfloat16))


def test_a_long_thought_gets_buffers_with_room(
    model: Bagel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_thinking, "BUCKET", 8)
    sampler = StaticThinker(model, graphs=False)
    short = read_prefix(model, None, [np.array([12])] * 2).full
    thoughts(sampler, short, most=4)
    longer = read_prefix(model, None, [np.arange(3, 33)] * 2).full
    assert_same(thoughts(sampler, longer, most=4), reference(model, longer, most=4))


def test_a_step_asks_nothing_of_the_device() -> None:
    """On the meta device there is nothing to ask, and every look at a value raises."""
    with torch.device("meta"):
        model = Bagel(tiny_config()).to(torch.bfloat16)
    add_adapters(model, LoraConfig(rank=4, alpha=8.0), seed=0)
    ids, length = torch.zeros(1, 5, dtype=torch.int64, device="meta"), torch.ones(1, device="meta")
    context = model.read_text(model.empty_context(1), ids, length)[0].expand(4)
    loop = TokenLoop(model, context, 256, SAMPLING, 64)
    loop.begin(context, torch.zeros(4, 64, device="meta"))
    with torch.no_grad():
        loop.step(256)
    with pytest.raises((NotImplementedError, RuntimeError)):
        loop.ended()


def test_without_graphs_it_goes_on_and_says_so(
    model: Bagel, caplog: pytest.LogCaptureFixture
) -> None:
    if torch.cuda.is_available():
        pytest.skip("graphs can be captured here")
    context = prefix(model)
    with caplog.at_level(logging.WARNING):
        got = thoughts(StaticThinker(model, graphs=True), context)
    assert_same(got, reference(model, context))
    assert caplog.text.count("without CUDA graphs") == 1


@pytest.mark.parametrize(
    ("how", "device", "kind"),
    [
        ("auto", "cpu", "eager"),
        ("auto", "cuda", "graphs"),
        ("static", "cpu", "static"),
        ("eager", "cuda", "eager"),
    ],
)
def test_who_samples(model: Bagel, how: str, device: str, kind: str) -> None:
    sampler = thought_sampler(model, how, torch.device(device))
    if kind == "eager":
        assert sampler.func is think
    else:
        assert sampler._graphs == (kind == "graphs")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_give_the_references_ids_version_after_version(dtype: torch.dtype) -> None:
    model = make_model("lora", seed=2).requires_grad_(False)
    model = model.to(device="cuda", dtype=dtype)
    sampler, context = StaticThinker(model, graphs=True), prefix(model)
    for version in range(3):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("lora_b"):
                    parameter.mul_(-1.5)
        want = reference(model, context, first_seed=version)
        assert_same(thoughts(sampler, context, first_seed=version), want)
    loop = sampler._loop
    assert loop is not None
    assert loop._captured is not None
    assert loop._captured._graphs, "captured, not fallen back"
