"""New weights change what the policy computes, and the same weights do not."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from alphagrpo.errors import WeightsError
from alphagrpo.models import weights
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.lora import LoraLinear, adapters
from alphagrpo.policy.effect import MOST_WITHOUT, WeightsEffect, probe_output
from alphagrpo.policy.trainable import trainable_parameters
from alphagrpo.types import WeightsManifest
from tests.fakes import make_model


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def model(request: pytest.FixtureRequest) -> Bagel:
    model = make_model("lora")
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            parameter.data = parameter.data.to(request.param)
    return model


def changed(model: Bagel, version: int, only: str = "", factor: float = 1.25) -> WeightsManifest:
    """Publish and apply new values of the adapters whose names hold ``only``."""
    parameters = trainable_parameters(model, "lora")
    with torch.no_grad():
        new = {n: p * (factor if only in n else 1.0) for n, p in parameters.items()}
    manifest, chunks = weights.flatten(new, version=version, kind="lora")
    weights.apply(parameters, manifest, chunks)
    return manifest


@pytest.mark.parametrize("only", ["", "layers.0.self_attn.q_proj.", "layers.1.mlp_moe_gen.down"])
def test_new_weights_of_either_expert_are_seen_and_measured(model: Bagel, only: str) -> None:
    effect = WeightsEffect(model)
    effect.check(changed(model, 0, only))
    assert effect.relative is None, "nothing to compare with"
    effect.check(changed(model, 1, only, factor=3.0))
    assert effect.relative is not None
    assert 1e-6 < effect.relative < 10


def test_the_same_weights_again_move_nothing(model: Bagel) -> None:
    effect, manifest = WeightsEffect(model), changed(model, 0)
    effect.check(manifest)
    effect.check(replace(manifest, version=4))
    assert effect.relative == 0.0


def test_the_same_weights_with_another_output_are_refused(model: Bagel) -> None:
    effect, manifest = WeightsEffect(model), changed(model, 0)
    effect.check(manifest)
    with torch.no_grad():
        model.language_model.model.layers[0].self_attn.q_proj.weight.mul_(1.5)
    with pytest.raises(WeightsError, match="the same weights must give the same output"):
        effect.check(manifest)


def test_weights_that_nothing_uses_end_the_run(
    model: Bagel, caplog: pytest.LogCaptureFixture
) -> None:
    for adapter in adapters(model).values():
        adapter.enabled = False
    effect = WeightsEffect(model)
    effect.check(changed(model, 1))
    with caplog.at_level(logging.WARNING):
        for version in range(2, 1 + MOST_WITHOUT):
            effect.check(changed(model, version))
    assert caplog.text.count("changed no bit") == MOST_WITHOUT - 1
    for _ in range(2):
        with pytest.raises(WeightsError, match=f"{MOST_WITHOUT} versions"):
            effect.check(changed(model, 9))
    for adapter in adapters(model).values():
        adapter.enabled = True
    effect.check(changed(model, 10))
    assert effect.relative


def test_a_conversion_that_is_kept_too_long_is_found(
    model: Bagel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the probe is for: adapters converted once and never again."""
    if model.dtype == torch.float32:
        pytest.skip("nothing is converted")
    fixed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def stale(self: LoraLinear, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return fixed.setdefault(id(self), (self.lora_a.to(dtype), self.lora_b.to(dtype)))

    monkeypatch.setattr(LoraLinear, "factors", stale)
    effect = WeightsEffect(model)
    effect.check(changed(model, 0))
    for version in range(1, MOST_WITHOUT):
        effect.check(changed(model, version))
    manifest = changed(model, MOST_WITHOUT)
    with pytest.raises(WeightsError, match="other bytes and the same output"):
        effect.check(manifest)


def test_the_probe_reaches_both_experts(model: Bagel) -> None:
    output = probe_output(model)
    vocabulary, channels = model.text_head().shape[0], model.latent_channels
    assert output.shape == (vocabulary + 4 * channels,)
    assert torch.equal(output, probe_output(model))
