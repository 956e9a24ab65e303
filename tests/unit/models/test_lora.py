from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import Tensor

from alphagrpo.errors import CheckpointError, ConfigError
from alphagrpo.models import weights
from alphagrpo.models.bagel.checkpoint import load_bagel, model_names, save_bagel
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.lora import (
    adapters,
    add_lora,
    disabled,
    load_lora_state,
    lora_state,
    merge,
    refresh,
)
from alphagrpo.policy.family import FAMILY
from alphagrpo.policy.trainable import trainable_parameters


def frozen(model: Bagel) -> Bagel:
    """Before an exact comparison: on some CPUs torch multiplies by weights that may need a gradient
    with another kernel, of other last bits, and adapters freeze the weights.
    """
    return model.requires_grad_(False)


def run(model: Bagel) -> Tensor:
    token_ids = torch.tensor([[1, 7, 8, 2], [1, 9, 2, 0]])
    context, hidden = model.read_text(model.empty_context(2), token_ids, torch.tensor([4, 3]))
    x = torch.linspace(-1, 1, 2 * 4 * 16).view(2, 4, 16)
    v = model.velocity(context, x, torch.tensor([0.8, 0.3]), (2, 2))
    return torch.cat([v.flatten(), model.text_logits(hidden[:, :3]).flatten()])


def trained(model: Bagel) -> Bagel:
    add_lora(model, FAMILY.takes_adapter, rank=4, alpha=8, seed=1)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for adapter in adapters(model).values():
            adapter.lora_b += 0.1 * torch.randn(adapter.lora_b.shape, generator=generator)
    return model


@torch.no_grad()
def test_a_fresh_adapter_changes_nothing(model: Bagel) -> None:
    before = run(frozen(model))
    names = add_lora(model, FAMILY.takes_adapter, rank=4, alpha=8, seed=1)
    # q, k, v, o, gate, up, down of two experts in every layer.
    assert len(names) == 14 * model.config.llm.num_hidden_layers
    assert torch.equal(run(model), before)


@torch.no_grad()
def test_disabled_is_the_base_model_and_is_undone(model: Bagel) -> None:
    before = run(frozen(model))
    trained(model)
    after = run(model)
    assert (after - before).abs().max() > 1e-3
    with disabled(model):
        assert torch.equal(run(model), before)
    assert torch.equal(run(model), after)


@torch.no_grad()
def test_merging_equals_the_unmerged_model(model: Bagel) -> None:
    trained(model)
    want = run(model)
    merge(model)
    assert not adapters(model)
    torch.testing.assert_close(run(model), want, atol=2e-5, rtol=1e-4)


def test_only_adapters_get_a_gradient(model: Bagel) -> None:
    trained(model)
    run(model).square().sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient
    assert all(".lora_" in name for name in with_gradient)
    first = adapters(model)["language_model.model.layers.0.self_attn.q_proj_moe_gen"]
    assert first.lora_a.grad is not None
    assert first.lora_a.grad.abs().sum() > 0


def test_the_start_is_a_function_of_the_seed(model: Bagel) -> None:
    from copy import deepcopy

    other = deepcopy(model)
    add_lora(model, FAMILY.takes_adapter, rank=4, alpha=8, seed=1)
    add_lora(other, FAMILY.takes_adapter, rank=4, alpha=8, seed=1)
    ours, theirs = lora_state(model), lora_state(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@torch.no_grad()
def test_state_round_trip_and_refusals(model: Bagel) -> None:
    from copy import deepcopy

    fresh = deepcopy(model)
    add_lora(fresh, FAMILY.takes_adapter, rank=4, alpha=8, seed=2)
    trained(model)
    state = lora_state(model)
    load_lora_state(fresh, state)
    assert torch.equal(run(fresh), run(model))
    name = next(iter(state))
    with pytest.raises(CheckpointError, match="one side only"):
        load_lora_state(fresh, {k: v for k, v in state.items() if k != name})
    with pytest.raises(CheckpointError, match="must have shape"):
        load_lora_state(fresh, state | {name: state[name][:1]})


def test_adapters_stay_float32_on_a_bfloat16_model(model: Bagel, tmp_path) -> None:
    save_bagel(model, tmp_path)
    low = load_bagel(tmp_path, dtype=torch.bfloat16)
    add_lora(low, FAMILY.takes_adapter, rank=2, alpha=4, seed=0)
    assert {t.dtype for t in lora_state(low).values()} == {torch.float32}
    run(low).square().mean().backward()
    gradients = [p.grad for p in low.parameters() if p.grad is not None]
    assert {g.dtype for g in gradients} == {torch.float32}


def test_saving_leaves_adapters_out(model: Bagel, tmp_path) -> None:
    plain = model_names(model)
    trained(model)
    assert model_names(model) == plain
    save_bagel(model, tmp_path)
    assert not adapters(load_bagel(tmp_path))


def test_what_trains(model: Bagel) -> None:
    experts = trainable_parameters(model, "experts")
    assert all(name.startswith("language_model.model.layers.") for name in experts)
    assert any("_moe_gen" in name for name in experts)
    assert not model.llm2vae.weight.requires_grad
    with pytest.raises(ConfigError, match="names no parameter"):
        trainable_parameters(model, "lora")
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        add_lora(model, FAMILY.takes_adapter, rank=0, alpha=1, seed=0)
    add_lora(model, FAMILY.takes_adapter, rank=2, alpha=4, seed=0)
    assert set(trainable_parameters(model, "lora")) == set(lora_state(model))
    assert set(trainable_parameters(model, "experts")) == set(experts), "adapters are no experts"
    with pytest.raises(ConfigError, match="one set"):
        add_lora(model, FAMILY.takes_adapter, rank=2, alpha=4, seed=0)


def test_names_of_adapted_layers_stand_in_model_order(model: Bagel) -> None:
    names = add_lora(model, FAMILY.takes_adapter, rank=2, alpha=4, seed=0)
    order = [name for name, _ in model.named_modules()]
    assert list(names) == sorted(names, key=order.index) == list(adapters(model))
    assert list(lora_state(model)) == [
        f"{n}.{half}" for n in names for half in ("lora_a", "lora_b")
    ]
    assert names[0] == "language_model.model.layers.0.self_attn.q_proj"
    assert names[-1] == "language_model.model.layers.1.mlp_moe_gen.down_proj"


def test_the_start_is_sampled_in_model_order_whatever_the_weights(model: Bagel) -> None:
    """A's values are a function of shapes, seed and order: what checkpoints and runners rely on."""
    generator = torch.Generator().manual_seed(5)
    add_lora(model, FAMILY.takes_adapter, rank=3, alpha=6, seed=5)
    for adapter in adapters(model).values():
        want = torch.randn(3, adapter.in_features, generator=generator) / 3
        assert torch.equal(adapter.lora_a, want)
        assert not adapter.lora_b.any()
        assert adapter.scale == 2.0


def test_any_model_takes_adapters_where_its_names_are_chosen() -> None:
    plain = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    assert add_lora(plain, lambda name: name == "2", rank=2, alpha=4, seed=0) == ("2",)
    assert [n for n, p in plain.named_parameters() if p.requires_grad] == ["2.lora_a", "2.lora_b"]
    other = torch.nn.Sequential(torch.nn.ReLU())
    with pytest.raises(ConfigError, match="linear layers to adapt"):
        add_lora(other, lambda name: True, rank=2, alpha=4, seed=0)


def test_an_error_inside_disabled_switches_the_adapters_on_again(model: Bagel) -> None:
    trained(model)
    first, *others = adapters(model).values()
    first.enabled = False
    with suppress(KeyError), disabled(model):
        assert not any(adapter.enabled for adapter in others)
        raise KeyError
    assert all(adapter.enabled for adapter in others)
    assert not first.enabled, "what was off before stays off"


@torch.no_grad()
def test_merging_leaves_a_plain_layer_with_the_sum_and_the_bias(model: Bagel) -> None:
    trained(model)
    name, adapter = next(iter(adapters(model).items()))
    want = adapter.weight + 2.0 * adapter.lora_b @ adapter.lora_a
    bias = adapter.bias
    merge(model)
    layer = model.get_submodule(name)
    assert type(layer) is torch.nn.Linear
    torch.testing.assert_close(layer.weight, want)
    assert layer.bias is bias
    assert not any(".lora_" in name for name in model.state_dict())


def test_an_unknown_kind_is_refused_by_name(model: Bagel) -> None:
    with pytest.raises(ConfigError, match="one of lora, experts, got 'all'"):
        trainable_parameters(model, "all")  # type: ignore[arg-type]


def halved(model: Bagel) -> Bagel:
    """The frozen weights in bfloat16, the adapters in float32."""
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def test_the_same_bits_with_gradient_and_without(model: Bagel) -> None:
    """Rollout adds the adapter in place with weights converted once, replay does neither."""
    for subject in (frozen(trained(model)), halved(model)):
        for name, parameter in subject.named_parameters():
            parameter.requires_grad_(".lora_" in name)
        with torch.no_grad():
            drawn = run(subject)
        replayed = run(subject)
        assert replayed.requires_grad
        assert torch.equal(drawn, replayed)


@pytest.mark.parametrize("way", ["optimizer", "published", "loaded"])
@torch.no_grad()
def test_converted_adapters_follow_the_weights_whoever_changes_them(model: Bagel, way: str) -> None:
    subject = halved(trained(model))
    parameters = trainable_parameters(subject, "lora")
    before = run(subject)
    adapter = next(iter(adapters(subject).values()))
    kept = [tensor.data_ptr() for tensor in adapter.factors(torch.bfloat16)]
    new = {name: -2.0 * parameter for name, parameter in parameters.items()}
    if way == "optimizer":
        torch._foreach_mul_(list(parameters.values()), -2.0)
    elif way == "published":
        manifest, chunks = weights.flatten(new, version=1, kind="lora")
        weights.apply(parameters, manifest, chunks)
    else:
        load_lora_state(subject, new)
    refresh(subject)
    converted = adapter.factors(torch.bfloat16)
    assert torch.equal(converted[0], adapter.lora_a.to(torch.bfloat16))
    assert torch.equal(converted[1], adapter.lora_b.to(torch.bfloat16))
    assert [tensor.data_ptr() for tensor in converted] == kept, "graphs read these addresses"
    assert not torch.equal(run(subject), before)


@torch.no_grad()
def test_what_is_unchanged_is_not_converted_again(model: Bagel) -> None:
    subject = halved(trained(model))
    run(subject)
    adapter = next(iter(adapters(subject).values()))
    adapter.factors(torch.bfloat16)[0].fill_(7.0)
    assert bool((adapter.factors(torch.bfloat16)[0] == 7.0).all())
