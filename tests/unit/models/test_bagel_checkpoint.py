from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alphagrpo.errors import CheckpointError
from alphagrpo.kernels import token_log_probs
from alphagrpo.models.bagel.checkpoint import load_bagel, random_bagel, save_bagel
from alphagrpo.models.bagel.config import AutoencoderConfig, BagelConfig, tiny_config
from alphagrpo.models.bagel.model import Bagel


@pytest.fixture
def folder(model: Bagel, tmp_path: Path) -> Path:
    save_bagel(model, tmp_path / "bagel")
    return tmp_path / "bagel"


def same(a: Bagel, b: Bagel) -> bool:
    pairs = [
        (a.state_dict(), b.state_dict()),
        (a.autoencoder.state_dict(), b.autoencoder.state_dict()),
    ]
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs)


def test_round_trip_gives_the_same_weights_and_config(model: Bagel, folder: Path) -> None:
    again = load_bagel(folder)
    assert again.config == model.config
    assert same(model, again)
    assert not list(folder.glob("*.partial"))


def test_official_names_of_model_and_autoencoder(folder: Path) -> None:
    names = load_file(folder / "ema.safetensors")
    assert "language_model.model.layers.1.mlp_moe_gen.gate_proj.weight" in names
    assert "language_model.model.layers.0.self_attn.q_norm_moe_gen.weight" in names
    assert "vit_model.vision_model.encoder.layers.0.self_attn.out_proj.bias" in names
    # The checkpoint has one vision layer fewer than its config says.
    assert not [name for name in names if "encoder.layers.1." in name]
    autoencoder = load_file(folder / "ae.safetensors")
    assert autoencoder["decoder.mid.attn_1.q.weight"].dim() == 4
    assert "encoder.down.2.downsample.conv.weight" in autoencoder
    assert "decoder.up.3.upsample.conv.weight" in autoencoder
    assert "decoder.up.0.upsample.conv.weight" not in autoencoder


def test_random_model_is_a_function_of_the_seed() -> None:
    before = torch.get_rng_state()
    assert same(random_bagel(tiny_config(), 5), random_bagel(tiny_config(), 5))
    assert torch.equal(before, torch.get_rng_state())
    assert not same(random_bagel(tiny_config(), 5), random_bagel(tiny_config(), 6))


@pytest.fixture
def released(model: Bagel, tmp_path: Path) -> Path:
    """A folder whose weights are all stored in bfloat16, as the released ones are."""
    save_bagel(deepcopy(model).to(torch.bfloat16), tmp_path / "released")
    return tmp_path / "released"


def test_a_released_checkpoint_keeps_its_text_head_in_bfloat16(released: Path) -> None:
    stored = load_file(released / "ema.safetensors")["language_model.lm_head.weight"]
    assert stored.dtype == torch.bfloat16
    model = load_bagel(released, dtype=torch.bfloat16)
    assert model.dtype == model.text_head().dtype == torch.bfloat16
    assert torch.equal(model.text_head(), stored)
    for module in (model.llm2vae, model.latent_pos_embed, model.vit_pos_embed):
        assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float32}
    assert next(model.autoencoder.parameters()).dtype == torch.float32
    v = model.velocity(model.empty_context(1), torch.zeros(1, 1, 16), torch.ones(1), (1, 1))
    assert v.dtype == torch.float32
    assert torch.isfinite(v).all()


def test_a_text_head_is_never_rounded(folder: Path, released: Path) -> None:
    """The wider of the file's type and the type that is asked for."""
    assert load_bagel(folder, dtype=torch.bfloat16).text_head().dtype == torch.float32
    assert load_bagel(released).text_head().dtype == torch.float32
    assert load_bagel(released, dtype=torch.float16).text_head().dtype == torch.float32
    assert load_bagel(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_kept_head_gives_the_logits_of_its_float32_copy(released: Path) -> None:
    model = load_bagel(released, dtype=torch.bfloat16)
    hidden, targets = torch.randn(4, 32).bfloat16(), torch.tensor([0, 5, 1, 39])
    kept = token_log_probs(hidden, model.text_head().detach(), targets)[0]
    widened = token_log_probs(hidden, model.text_head().detach().float(), targets)[0]
    torch.testing.assert_close(kept, widened)
    assert model.text_logits(hidden).dtype == torch.float32


def test_shards_with_an_index_load(model: Bagel, folder: Path) -> None:
    state = load_file(folder / "ema.safetensors")
    (folder / "ema.safetensors").unlink()
    names = sorted(state)
    halves = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    for file, own in halves.items():
        save_file({name: state[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in halves.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(model, load_bagel(folder))
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"needs b\.safetensors"):
        load_bagel(folder)


@pytest.mark.parametrize("file", ["ema.safetensors", "ae.safetensors"])
def test_a_truncated_file_is_refused(folder: Path, file: str) -> None:
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=rf"{file} must be a whole safetensors file.*again"):
        load_bagel(folder)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("ema.safetensors", "needs its weights"),
        ("ae.safetensors", r"needs ae\.safetensors"),
        ("llm_config.json", r"needs llm_config\.json"),
        ("vit_config.json", r"needs vit_config\.json"),
    ],
)
def test_a_missing_file_is_named(folder: Path, file: str, message: str) -> None:
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=message):
        load_bagel(folder)


def test_missing_unexpected_and_misshapen_tensors_are_named(folder: Path) -> None:
    path = folder / "ema.safetensors"
    state = load_file(path)
    head = state.pop("llm2vae.bias")
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"missing: llm2vae\.bias"):
        load_bagel(folder)
    save_file(state | {"llm2vae.bias": head, "extra.weight": head.clone()}, path)
    with pytest.raises(CheckpointError, match=r"do not fit: extra\.weight"):
        load_bagel(folder)
    save_file(state | {"llm2vae.bias": head[:3].contiguous()}, path)
    with pytest.raises(CheckpointError, match=r"shape \[16\] by the config, got \[3\]"):
        load_bagel(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("llm_config.json", {"hidden_size": None}, "'hidden_size' is required"),
        ("llm_config.json", {"hidden_size": "32"}, "'hidden_size' must be int, got '32'"),
        ("llm_config.json", {"tie_word_embeddings": True}, "'tie_word_embeddings' must be False"),
        ("llm_config.json", {"num_key_value_heads": 3}, "multiple of 3, got 4"),
        ("vit_config.json", {"hidden_act": "gelu"}, "'hidden_act' must be 'gelu_pytorch_tanh'"),
        ("config.json", {"autoencoder": {"ch_mult": [1, 2]}}, "downsample must be 2"),
    ],
)
def test_a_bad_config_field_is_named(folder: Path, file: str, change: dict, message: str) -> None:
    content = json.loads((folder / file).read_text()) | change
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        BagelConfig.from_folder(folder)


def test_without_config_json_the_released_values_hold(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"names no id for <\|im_start\|>"):
        BagelConfig.from_folder(folder)
    tokens = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    added = [{"id": 30 + i, "content": token} for i, token in enumerate(tokens)]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    config = BagelConfig.from_folder(folder)
    assert (config.max_latent_size, config.vit_max_num_patch_per_side) == (64, 70)
    assert config.autoencoder == AutoencoderConfig()
    assert config.special.end_of_image == 33
    assert (config.latent_channels, config.pixels_per_token) == (64, 16)


def test_config_module_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, alphagrpo.models.bagel.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_picture_larger_than_the_table_is_refused(model: Bagel) -> None:
    with pytest.raises(ValueError, match="at most 6x6 tokens, this one has 7x1"):
        model.velocity(model.empty_context(1), torch.zeros(1, 7, 16), torch.ones(1), (7, 1))
    assert replace(model.config, max_latent_size=7).max_latent_size == 7
