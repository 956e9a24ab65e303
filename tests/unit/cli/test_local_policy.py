"""Drawing in this process takes a checkpoint's weights, and nothing that trains them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alphagrpo.cli.local_policy import LocalPolicy
from alphagrpo.config import RunConfig
from alphagrpo.errors import CheckpointError, ConfigError
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.learner.optimizer import MasterAdamW
from alphagrpo.learner.state import load_learner, save_learner
from alphagrpo.models.bagel import random_bagel, save_bagel, tiny_config
from alphagrpo.policy.checkpoint import (
    MASTER,
    SavedTensors,
    load_weights,
    open_checkpoint,
    read_state,
)
from alphagrpo.policy.loading import load_policy
from miniature.policy.pretrain import special_ids
from miniature.tokenizer import build_tokenizer
from tests.fakes import make_config


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer()
    llm = replace(tiny_config().llm, vocab_size=len(tokenizer))
    save_bagel(random_bagel(tiny_config(llm=llm, special=special_ids(tokenizer)), 0), folder)
    tokenizer.save_pretrained(folder)
    return folder


def config_of(folder: Path, trainable: str, dtype: str = "float32") -> RunConfig:
    model = {"path": str(folder), "trainable": trainable, "device": "cpu", "dtype": dtype}
    return make_config(model=model)


def trained(config: RunConfig, folder: Path) -> GRPOLearner:
    """A learner after one step along random gradients, saved."""
    learner = GRPOLearner(load_policy(config).model, config)
    generator = torch.Generator().manual_seed(3)
    gradients = [torch.randn(p.shape, generator=generator) for p in learner.parameters.values()]
    learner.optimizer.step(0, gradients)
    learner.version = 5
    save_learner(learner, folder)
    return learner


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("an optimizer or a learner was built only to draw")

    monkeypatch.setattr(MasterAdamW, "__init__", refuse)
    monkeypatch.setattr(GRPOLearner, "__init__", refuse)


@pytest.mark.parametrize(
    ("trainable", "dtype"),
    [("lora", "float32"), ("experts", "float32"), ("experts", "bfloat16")],
)
def test_a_checkpoints_weights_are_drawn_with_and_no_optimizer_is_built(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trainable: str,
    dtype: str,
) -> None:
    config = config_of(model_folder, trainable, dtype)
    learner = trained(config, tmp_path / "learner")
    restored = GRPOLearner(load_policy(config).model, config)
    load_learner(restored, tmp_path / "learner")
    forbid(monkeypatch)
    policy, untrained = LocalPolicy(config, tmp_path), LocalPolicy(config)
    own, before = (dict(p.model.named_parameters()) for p in (policy, untrained))
    for name, parameter in learner.parameters.items():
        assert torch.equal(own[name], parameter), name
        assert torch.equal(own[name], restored.parameters[name]), name
    assert any(not torch.equal(own[name], before[name]) for name in learner.parameters)


def test_a_checkpoint_of_other_parameters_leaves_the_weights_alone(
    model_folder: Path, tmp_path: Path
) -> None:
    trained(config_of(model_folder, "lora"), tmp_path)
    config = config_of(model_folder, "experts")
    with pytest.raises(CheckpointError, match=r"trainable parameters, \d+ differ .*model section"):
        LocalPolicy(config, tmp_path)
    parameters = {"one": torch.zeros(2)}
    with pytest.raises(CheckpointError, match="the first: "):
        load_weights(parameters, tmp_path)
    assert not parameters["one"].any()


def test_only_the_masters_are_read_to_draw(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = trained(config_of(model_folder, "lora"), tmp_path)
    with open_checkpoint(tmp_path, read_state(tmp_path)) as saved:
        masters = {name for name in saved.shapes if name.startswith(MASTER)}
        assert len(masters) == len(learner.parameters)
        assert len(saved.shapes) == 4 * len(masters), "two moments and a step each"
    read, real = set(), SavedTensors.read

    def recorded(self: SavedTensors, name: str, rows: Any = None) -> torch.Tensor:
        read.add(name)
        return real(self, name, rows)

    monkeypatch.setattr(SavedTensors, "read", recorded)
    assert load_weights(learner.parameters, tmp_path) == 5
    assert read == masters


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("learner.json", b"{", "must be JSON"),
        ("learner.json", b'{"format": 99}', "must be of format 1, got 99"),
        ("learner.json", b"[]", "must be of format 1, got"),
        ("learner.safetensors", b"", "whole safetensors file.*earlier checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_the_remedy(
    model_folder: Path, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    config = config_of(model_folder, "lora")
    trained(config, tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        LocalPolicy(config, tmp_path)


def test_tensors_of_another_save_are_refused(model_folder: Path, tmp_path: Path) -> None:
    trained(config_of(model_folder, "lora"), tmp_path)
    state = read_state(tmp_path)
    state["bytes"] += 1
    with (
        pytest.raises(CheckpointError, match=r"must have \d+ bytes.*its learner\.json"),
        open_checkpoint(tmp_path, state),
    ):
        pass
    (tmp_path / "learner.safetensors").unlink()
    with (
        pytest.raises(CheckpointError, match=r"learner's checkpoint needs learner\.safetensors"),
        open_checkpoint(tmp_path, state),
    ):
        pass


async def test_it_draws_but_does_not_train(model_folder: Path) -> None:
    from alphagrpo.ports import PictureRequest
    from tests.fakes import make_job, make_prompts, make_questions

    config = config_of(model_folder, "lora")
    policy, (prompt,) = LocalPolicy(config), make_prompts(1)
    (picture,) = await policy.draw([PictureRequest(prompt=prompt, seed=1)], version=3)
    assert picture.pixels.shape == (32, 32, 3)
    with pytest.raises(ConfigError, match="cannot be trained on here; use `alphagrpo train`"):
        await policy.roll_out(make_job(prompt, config), make_questions(prompt.text))


def test_a_picture_off_the_grid_is_refused_before_the_model_is_loaded(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("alphagrpo.policy.loading.load_policy", load)
    config = make_config(
        model={"path": str(model_folder)},
        task={"system_prompt": "x", "height": 40, "width": 32},
    )
    with pytest.raises(ConfigError, match=r"task\.height.*got 40"):
        LocalPolicy(config)
