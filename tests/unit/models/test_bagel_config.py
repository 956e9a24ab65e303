"""What config files say reaches the model, and what BAGEL cannot be is refused by its field."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alphagrpo.errors import CheckpointError
from alphagrpo.models.bagel.checkpoint import config_files, load_bagel, read_weights, save_bagel
from alphagrpo.models.bagel.config import (
    AutoencoderConfig,
    BagelConfig,
    LlmConfig,
    SpecialIds,
    VitConfig,
    tiny_config,
)
from alphagrpo.models.bagel.layout import check_files, weight_files
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.bagel.norm import RmsNorm

UNUSUAL = BagelConfig(
    llm=LlmConfig(
        hidden_size=36,
        intermediate_size=50,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=3,
        vocab_size=77,
        head_dim=10,
        rope_theta=5000.0,
        rms_norm_eps=1e-4,
    ),
    vit=VitConfig(
        hidden_size=20,
        intermediate_size=30,
        num_hidden_layers=4,
        num_attention_heads=5,
        patch_size=7,
        image_size=35,
        num_channels=1,
        layer_norm_eps=1e-3,
    ),
    special=SpecialIds(bos_token_id=11, eos_token_id=12, start_of_image=13, end_of_image=14),
    autoencoder=AutoencoderConfig(
        resolution=64,
        in_channels=1,
        downsample=4,
        ch=64,
        out_ch=4,
        ch_mult=(1, 3, 2),
        num_res_blocks=3,
        z_channels=8,
        scale_factor=0.5,
        shift_factor=0.25,
    ),
    latent_patch_size=3,
    max_latent_size=9,
    vit_max_num_patch_per_side=8,
    time_embed_frequency_dim=128,
    training_timestep_shift=4.0,
)
"""No field has its default."""


def write(folder: Path, config: BagelConfig, /, **changes: dict[str, Any]) -> Path:
    for name, content in config_files(config).items():
        merged = content | changes.get(name.removesuffix(".json"), {})
        (folder / name).write_text(json.dumps(merged))
    return folder


def test_every_field_is_written_and_read(tmp_path: Path) -> None:
    assert BagelConfig.from_folder(write(tmp_path, UNUSUAL)) == UNUSUAL
    assert (UNUSUAL.latent_channels, UNUSUAL.pixels_per_token) == (72, 12)


def test_every_norm_has_the_epsilon_of_its_config() -> None:
    with torch.device("meta"):
        model = Bagel(UNUSUAL)
    norms = [m for m in model.language_model.modules() if isinstance(m, RmsNorm)]
    assert len(norms) == 3 * 2 * 4 + 2
    assert {norm.eps for norm in norms} == {1e-4}
    layers = [m for m in model.vit_model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(layers) == 3 * 2 + 1
    assert {layer.eps for layer in layers} == {1e-3}


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("llm_config", {"qk_norm": False}, "'qk_norm' must be True"),
        ("llm_config", {"rope_scaling": {"factor": 2}}, "'rope_scaling' must be None"),
        ("llm_config", {"use_sliding_window": True}, "'use_sliding_window' must be False"),
        ("llm_config", {"hidden_act": "gelu"}, "'hidden_act' must be 'silu'"),
        ("llm_config", {"layer_module": "Qwen2"}, "'layer_module' must be 'Qwen2MoTDecoderLayer'"),
        ("llm_config", {"vocab_size": True}, "'vocab_size' must be int, got True"),
        ("llm_config", {"rope_theta": "high"}, "'rope_theta' must be float, got 'high'"),
        ("llm_config", {"head_dim": 7}, "head_dim must be a positive multiple of 2, got 7"),
        ("llm_config", {"num_attention_heads": -6}, "num_attention_heads .* got -6"),
        ("vit_config", {"image_size": 36}, "vit image_size .* multiple of 7, got 36"),
        ("vit_config", {"num_attention_heads": 3}, "vit hidden_size .* multiple of 3, got 20"),
        ("config", {"autoencoder": {"ch_mult": [1, 2, 4, 0]}}, r"ch_mult .* got \[1, 2, 4, 0\]"),
        ("config", {"autoencoder": {"ch_mult": 4}}, "ch_mult must be a list of positive int"),
        ("config", {"autoencoder": {"ch": 24}}, r"ch \* ch_mult .* multiple of 32, got 24"),
        ("config", {"special_token_ids": {"bos_token_id": 1}}, "'eos_token_id' is required"),
        ("config", {"latent_patch_size": 2.5}, "'latent_patch_size' must be int, got 2.5"),
    ],
)
def test_a_field_that_bagel_cannot_have_is_named(
    tmp_path: Path, file: str, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(CheckpointError, match=says):
        BagelConfig.from_folder(write(tmp_path, UNUSUAL, **{file: change}))


def test_a_whole_number_is_a_float_where_one_is_needed(tmp_path: Path) -> None:
    config = BagelConfig.from_folder(write(tmp_path, UNUSUAL, llm_config={"rope_theta": 1000000}))
    assert config.llm.rope_theta == 1e6
    assert isinstance(config.llm.rope_theta, float)


@pytest.mark.parametrize("text", ["[1]", "{", "\xff"])
def test_a_config_that_is_no_json_object_is_named(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, UNUSUAL) / "vit_config.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"vit_config\.json must"):
        BagelConfig.from_folder(tmp_path)


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a folder; .*nowhere is none"):
        BagelConfig.from_folder(tmp_path / "nowhere")


def test_framing_ids_come_from_either_file_of_the_tokenizer(tmp_path: Path) -> None:
    write(tmp_path, UNUSUAL)
    (tmp_path / "config.json").unlink()
    texts = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    first = [{"id": 20 + i, "content": text} for i, text in enumerate(texts[:2])]
    second = {str(30 + i): {"content": text} for i, text in enumerate(texts[2:])}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": first}))
    with pytest.raises(CheckpointError, match=r"no id for <\|vision_start\|>, <\|vision_end\|>"):
        BagelConfig.from_folder(tmp_path)
    decoder = json.dumps({"added_tokens_decoder": second})
    (tmp_path / "tokenizer_config.json").write_text(decoder)
    special = BagelConfig.from_folder(tmp_path).special
    assert special == SpecialIds(
        bos_token_id=20, eos_token_id=21, start_of_image=30, end_of_image=31
    )


# -- files of weights


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a.safetensors"]}])
def test_an_index_without_shards_is_refused(tmp_path: Path, index: dict[str, Any]) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json must hold a weight_map"):
        weight_files(tmp_path)


def test_one_file_of_weights_goes_before_an_index_and_ema_before_others(tmp_path: Path) -> None:
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [p.name for p in weight_files(tmp_path)] == ["a.safetensors", "b.safetensors"]
    for name in ("weights.safetensors", "model.safetensors", "ema.safetensors"):
        (tmp_path / name).touch()
        assert [p.name for p in weight_files(tmp_path)] == [name]


@pytest.mark.parametrize("file", ["ema.safetensors", "ae.safetensors"])
def test_a_check_looks_at_every_file_of_weights(model: Bagel, tmp_path: Path, file: str) -> None:
    save_bagel(model, tmp_path)
    assert check_files(tmp_path) == model.config
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=rf"{file} must be a whole safetensors file"):
        check_files(tmp_path)


def test_an_autoencoder_in_half_precision_is_loaded_as_float32(
    model: Bagel, tmp_path: Path
) -> None:
    save_bagel(model, tmp_path)
    path = tmp_path / "ae.safetensors"
    save_file({k: v.bfloat16() for k, v in load_file(path).items()}, path)
    loaded = load_bagel(tmp_path).autoencoder
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    pairs = zip(model.autoencoder.parameters(), loaded.parameters(), strict=True)
    assert all(torch.equal(a.bfloat16().float(), b) for a, b in pairs)


def test_many_missing_tensors_are_counted_and_some_are_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    expected = {"a": (1,)} | {f"layer.{i}": (2,) for i in range(6)}
    with pytest.raises(CheckpointError, match=r"6 are missing: layer\.0, .*layer\.3 and 2 more;"):
        read_weights([tmp_path / "x.safetensors"], expected, "cpu")


def test_a_config_of_another_width_does_not_take_the_weights(model: Bagel, tmp_path: Path) -> None:
    save_bagel(model, tmp_path)
    wider = replace(tiny_config().llm, intermediate_size=64)
    write(tmp_path, tiny_config(llm=wider))
    with pytest.raises(
        CheckpointError, match=r"mlp\..*must have shape \[64, 32\] .* got \[48, 32\]"
    ):
        load_bagel(tmp_path)
