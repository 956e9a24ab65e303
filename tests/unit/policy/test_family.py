"""The seam of a policy's family: who may know BAGEL, and what its object answers."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alphagrpo.errors import CheckpointError, ConfigError
from alphagrpo.models.bagel import (
    BagelConfig,
    load_bagel,
    random_bagel,
    save_bagel,
    tiny_config,
)
from alphagrpo.models.bagel.config import AutoencoderConfig
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.bagel.sizes import BagelShape
from alphagrpo.models.bagel.space import Practice
from alphagrpo.policy.family import FAMILY, check_picture_size
from alphagrpo.policy.memory import model_size
from tests.fakes import make_config, make_model

ROOT = Path(__file__).parents[3]
NAMES = ("_moe_gen", "language_model.model.layers", "ema.safetensors", "ae.safetensors")
"""Of parameters and files."""


def outsiders() -> list[Path]:
    """All that is shipped, but for the two places that know BAGEL."""
    paths = [p for top in ("alphagrpo", "actors", "services") for p in (ROOT / top).rglob("*.py")]
    family, bagel = ROOT / "alphagrpo/policy/family.py", ROOT / "alphagrpo/models/bagel"
    return sorted(p for p in paths if p != family and not p.is_relative_to(bagel))


def test_bagels_names_are_known_to_its_package_and_the_family_only() -> None:
    assert len(outsiders()) > 150
    for path in outsiders():
        text = path.read_text(encoding="utf-8")
        assert not [name for name in NAMES if name in text], path
        for node in ast.walk(ast.parse(text)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            assert not [m for m in modules if m.startswith("alphagrpo.models.bagel")], path


@pytest.mark.parametrize(
    "module", ["policy.family", "policy.memory", "policy.recipe", "cli.launch"]
)
def test_checks_and_arithmetic_import_neither_torch_nor_diffusers(module: str) -> None:
    code = f"import sys, alphagrpo.{module}; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not {"torch", "diffusers", "transformers"} & set(done.stdout.split())


def test_a_dry_run_loads_no_torch() -> None:
    code = """
import sys
from alphagrpo.cli.main import main
assert main(["train", "deploy/configs/smoke.yaml", "--dry-run", "--json"]) == 0
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def counted(model: Bagel) -> dict[str, int]:
    """Numbers of weights and table entries by part, from the model that is built."""
    state = {name: tensor.numel() for name, tensor in model.state_dict().items()}
    parts = {
        "vision": ("vit_model.", "connector.", "vit_pos_embed."),
        "embeddings": ("language_model.model.embed_tokens.", "language_model.lm_head."),
        "other": ("vae2llm.", "llm2vae.", "time_embedder.", "latent_pos_embed."),
    }
    sizes = {
        part: sum(state.pop(name) for name in list(state) if name.startswith(prefixes))
        for part, prefixes in parts.items()
    }
    sizes["generation"] = sum(state.pop(name) for name in list(state) if "_moe_gen" in name)
    sizes["understanding"] = sum(state.values())
    sizes["autoencoder"] = sum(p.numel() for p in model.autoencoder.parameters())
    return sizes


MIXED = AutoencoderConfig(ch=32, ch_mult=(1, 2, 4, 4), num_res_blocks=3, z_channels=8)


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_config(autoencoder=MIXED, latent_patch_size=1, time_embed_frequency_dim=64),
        BagelConfig.from_folder(ROOT / "deploy/models/policy"),
        BagelShape.released().config,
    ],
    ids=["tiny", "mixed", "miniature", "released"],
)
def test_numbers_of_weights_are_those_of_the_model_that_is_built(config: BagelConfig) -> None:
    with torch.device("meta"):
        model = Bagel(config)
    assert BagelShape(config).weights() == counted(model)


@pytest.mark.parametrize("rank", [1, 4])
def test_the_number_of_adapter_weights_is_that_of_the_adapters(rank: int) -> None:
    from alphagrpo.models.lora import add_lora, lora_state

    model = random_bagel(tiny_config(), 0)
    add_lora(model, FAMILY.takes_adapter, rank=rank, alpha=1.0, seed=0)
    adapters = sum(tensor.numel() for tensor in lora_state(model).values())
    assert BagelShape(model.config).adapter_weights(rank) == adapters


def test_a_cached_token_and_a_read_picture_cost_what_the_model_caches() -> None:
    model = make_model()
    shape = BagelShape(model.config)
    with torch.no_grad():
        context = model.read_latents(model.empty_context(1), torch.zeros(1, 4, 16), (2, 2))
        context = model.read_pixels(context, torch.zeros(1, 3, 32, 32))
    assert context.length == shape.picture_tokens(32, 32)
    values = sum(k.numel() for k in (*context.keys, *context.values))
    assert values == shape.kv_values_per_token * context.length


def test_recomputing_keeps_less_of_many_layers_and_all_of_one() -> None:
    shape = BagelShape.released()
    none, half, full = (shape.replay_values(28, 1026, 237, recomputed=r) for r in (0, 14, 28))
    assert full < none / 4
    assert full < half < none
    assert full > none / shape.num_layers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_of_a_loaded_model_are_those_of_the_arithmetic(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    save_bagel(random_bagel(tiny_config(), 0).to(torch.bfloat16), tmp_path)
    model = load_bagel(tmp_path, dtype=dtype)
    tensors = [*model.state_dict().values(), *model.autoencoder.state_dict().values()]
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    config = make_config(model={"path": str(tmp_path)})
    shape, size = model_size(config)
    # The text head has the type that loading gives it.
    practice = Practice(wide_head=model.text_head().dtype == torch.float32)
    size = replace(size, float32=replace(shape, practice=practice).float32_weights)
    assert held == size.bytes_in("float32" if dtype == torch.float32 else "bfloat16")


def test_the_experts_are_told_apart_by_name() -> None:
    model = random_bagel(tiny_config(), 0)
    layers = [name for name, _ in model.named_parameters() if FAMILY.is_expert_weight(name)]
    generation = [name for name in layers if FAMILY.of_generation_expert(name)]
    assert 2 * len(generation) == len(layers) == 2 * 2 * 14
    assert {name.replace("_moe_gen", "") for name in generation} == set(layers) - set(generation)
    assert not FAMILY.is_expert_weight("language_model.model.norm.weight")
    assert not FAMILY.takes_adapter("language_model.model.layers.0.self_attn")
    assert not FAMILY.takes_adapter("vit_model.vision_model.encoder.layers.0.self_attn.q_proj")
    assert FAMILY.takes_adapter("language_model.model.layers.11.mlp_moe_gen.gate_proj")


def test_a_folder_is_checked_and_loaded_without_its_name_being_known(tmp_path: Path) -> None:
    model = random_bagel(tiny_config(), 0)
    save_bagel(model, tmp_path)
    assert FAMILY.check(tmp_path) == FAMILY.shape(tmp_path) == BagelShape(model.config)
    loaded = FAMILY.load(tmp_path, dtype=torch.float32, device="cpu")
    assert torch.equal(loaded.text_head(), model.text_head())
    (tmp_path / "ae.safetensors").unlink()
    assert FAMILY.shape(tmp_path) == BagelShape(model.config), "reads no weights"
    with pytest.raises(CheckpointError, match=r"needs ae\.safetensors.*copy it there"):
        FAMILY.check(tmp_path)


@pytest.mark.parametrize(
    ("height", "width", "says"),
    [
        (40, 32, r"task\.height must be a multiple of 16 pixels and at most 96 .* got 40; try 32"),
        (32, 112, r"task\.width .* got 112; try 96"),
        (32, 20, r"task\.width .* got 20; try 16"),
    ],
)
def test_a_picture_off_the_grid_is_refused_with_the_nearest_size(
    height: int, width: int, says: str
) -> None:
    task = make_config(task={"system_prompt": "x", "height": height, "width": width}).task
    with pytest.raises(ConfigError, match=says):
        check_picture_size(task, BagelShape(tiny_config()))


def test_the_largest_picture_of_the_grid_passes() -> None:
    task = make_config(task={"system_prompt": "x", "height": 96, "width": 16}).task
    check_picture_size(task, BagelShape(tiny_config()))
