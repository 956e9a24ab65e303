"""Drawing in this process takes a checkpoint's weights, and nothing that trains them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from alphagrpo.cli.local_policy import LocalPolicy
from alphagrpo.config import RunConfig
from alphagrpo.digests import digest_file
from alphagrpo.errors import CheckpointError, ConfigError, DiskFull
from alphagrpo.files import write_state
from alphagrpo.learner import state as state_module
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
        ("learner.json", b'{"format": 99}', "must be of format 2, got 99"),
        ("learner.json", b"[]", "must be of format 2, got"),
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
    state["files"]["learner.safetensors"]["bytes"] += 1
    with (
        pytest.raises(CheckpointError, match=r"must have [\d,]+ bytes"),
        open_checkpoint(tmp_path, state),
    ):
        pass
    (tmp_path / "learner.safetensors").unlink()
    with (
        pytest.raises(CheckpointError, match=r"learner's checkpoint needs learner\.safetensors"),
        open_checkpoint(tmp_path, state),
    ):
        pass


def change(path: Path, at: int, new: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(new)] = new
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["bit", "zeros"])
def test_a_flipped_bit_and_a_hole_of_zeros_are_refused_and_change_no_weight(
    model_folder: Path, tmp_path: Path, damage: str
) -> None:
    config = config_of(model_folder, "experts")
    learner = trained(config, tmp_path)
    path = tmp_path / "learner.safetensors"
    at = path.stat().st_size // 2
    change(path, at, bytes(65536) if damage == "zeros" else bytes([path.read_bytes()[at] ^ 1]))
    before = {name: p.detach().clone() for name, p in learner.parameters.items()}
    for load in (lambda: load_weights(learner.parameters, tmp_path),
                 lambda: load_learner(learner, tmp_path)):  # fmt: skip
        with pytest.raises(CheckpointError, match=r"must have the digest .* earlier checkpoint"):
            load()
    assert all(torch.equal(p, before[name]) for name, p in learner.parameters.items())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"step": -5}, "step must be a whole number from 0 on, got -5"),
        ({"step": 2.5}, "step must be a whole number from 0 on, got 2.5"),
        ({"step": None}, "step must be a whole number from 0 on, got None"),
        ({"version": "5"}, "version must be a whole number from 0 on, got '5'"),
        ({"step": 3, "version": -1}, "version must be a whole number from 0 on, got -1"),
        ({"visits": {"p": -1}}, "visits must be counts by prompt"),
        ({"visits": None}, "visits must be counts by prompt, got None"),
        ({"files": {"learner.safetensors": "8"}}, "files must hold bytes and blake3 of learner"),
        ({"files": {}}, "files must be learner.safetensors, or an index"),
    ],
)
def test_values_that_cannot_be_are_named_though_the_state_proves_itself(
    model_folder: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    config = config_of(model_folder, "lora")
    learner = trained(config, tmp_path)
    learner.step = 1
    save_learner(learner, tmp_path)
    write_state(tmp_path / "learner.json", read_state(tmp_path) | changes)
    with pytest.raises(CheckpointError, match=rf"learner\.json: {says}"):
        load_learner(learner, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_neither_written_nor_read(
    model_folder: Path, tmp_path: Path, value: float
) -> None:
    learner = trained(config_of(model_folder, "lora"), tmp_path / "whole")
    name, parameter = next(iter(learner.parameters.items()))
    with torch.no_grad():
        parameter.view(-1)[0] = value
    with pytest.raises(CheckpointError, match=f"finite numbers, master/{name} has others"):
        save_learner(learner, tmp_path / "broken")
    assert not list((tmp_path / "broken").iterdir())
    path = tmp_path / "whole" / "learner.safetensors"
    save_file({**load_file(path), MASTER + name: parameter.detach()}, path)
    state = read_state(path.parent)
    state["files"][path.name] = digest_file(path).to_json()
    write_state(path.parent / "learner.json", state)
    with pytest.raises(CheckpointError, match=f"finite.*master/{name}"):
        load_weights(learner.parameters, path.parent)


def test_a_checkpoint_of_before_there_were_digests_is_read_and_the_log_says_so(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner = trained(config_of(model_folder, "lora"), tmp_path)
    size = (tmp_path / "learner.safetensors").stat().st_size
    old = {"format": 1, "step": 1, "version": 5, "visits": {}, "bytes": size}
    (tmp_path / "learner.json").write_text(json.dumps(old))
    assert load_learner(learner, tmp_path) == 1
    assert "before checkpoints had digests" in caplog.text


def test_a_full_disk_is_told_in_one_line_with_what_the_tensors_need(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: IoError(no room (os error 28))")

    learner = trained(config_of(model_folder, "lora"), tmp_path / "whole")
    monkeypatch.setattr(state_module, "save_file", full)
    needed = sum(tensor.nbytes for tensor in learner.optimizer.state_tensors().values())
    with pytest.raises(DiskFull, match=rf"learner\.safetensors needs {needed:,} bytes, the disk"):
        save_learner(learner, tmp_path / "next")
    assert not list((tmp_path / "next").iterdir())


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
