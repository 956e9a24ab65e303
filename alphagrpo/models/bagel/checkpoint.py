"""Reading and writing the official checkpoint layout.

A folder holds ``llm_config.json``, ``vit_config.json``, ``config.json`` (optional), the model's
weights (``ema.safetensors``, ``model.safetensors``, ``weights.safetensors``, or shards with an
index) and ``ae.safetensors``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alphagrpo.errors import CheckpointError
from alphagrpo.files import replacing
from alphagrpo.models.bagel.autoencoder import Autoencoder, official_name
from alphagrpo.models.bagel.config import BagelConfig
from alphagrpo.models.bagel.layout import AUTOENCODER_FILE, OWNER, WEIGHT_FILES, weight_files
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.tensor_files import open_tensors

TEXT_HEAD = "language_model.lm_head."
"""Never rounded: it keeps the type of the file, where that is the wider one. Products of bfloat16
are exact in float32, so that a released head gains nothing from being widened."""
FLOAT32_MODULES = ("llm2vae.", "latent_pos_embed.", "vit_pos_embed.")
"""Computed in float32; keeping their few weights so saves a conversion at every call."""


def load_bagel(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Bagel:
    """Build a BAGEL from a checkpoint folder; weights go straight from the file to ``device``.

    Args:
        folder: the checkpoint folder.
        dtype: type of the weights. The velocity head, position tables and autoencoder are in
            float32 whatever it is, and the text head is in the wider one of this type and the
            file's.
        device: where to put them.

    Raises:
        CheckpointError: a file is missing or truncated, or tensors do not fit the config.
    """
    folder = Path(folder)
    config = BagelConfig.from_folder(folder)
    with torch.device("meta"):
        model = Bagel(config)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    state = read_weights(weight_files(folder), expected, str(device))
    for name, tensor in state.items():
        state[name] = tensor.to(_kept_type(name, tensor.dtype, dtype))
    model.load_state_dict(state, assign=True)
    model.set_autoencoder(_load_autoencoder(folder, model.autoencoder, str(device)))
    return model.eval()


def save_bagel(model: Bagel, folder: str | Path) -> None:
    """Write the official layout into ``folder``, which is made where it does not exist.

    Adapter weights are not written: merge them first, or keep ``lora_state`` beside them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = model_names(model)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if k in names}
    autoencoder = model.autoencoder.official_state()
    _save(state, folder / WEIGHT_FILES[0])
    _save(
        {k: v.detach().cpu().contiguous() for k, v in autoencoder.items()},
        folder / AUTOENCODER_FILE,
    )
    for name, content in config_files(model.config).items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def random_bagel(config: BagelConfig, seed: int) -> Bagel:
    """A BAGEL with random weights that are a function of ``config`` and ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Bagel(config)
        _initialise(model)
    return model.eval()


def config_files(config: BagelConfig) -> dict[str, dict[str, Any]]:
    """The three config files of ``config``, by name."""
    llm = asdict(config.llm)
    llm |= {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "qk_norm": True,
        "layer_module": "Qwen2MoTDecoderLayer",
        "bos_token_id": config.special.bos_token_id,
        "eos_token_id": config.special.eos_token_id,
    }
    vit = asdict(config.vit) | {
        "model_type": "siglip_vision_model",
        "hidden_act": "gelu_pytorch_tanh",
    }
    main = {
        "special_token_ids": asdict(config.special),
        "latent_patch_size": config.latent_patch_size,
        "max_latent_size": config.max_latent_size,
        "vit_max_num_patch_per_side": config.vit_max_num_patch_per_side,
        "time_embed_frequency_dim": config.time_embed_frequency_dim,
        "training_timestep_shift": config.training_timestep_shift,
        "autoencoder": asdict(config.autoencoder),
    }
    return {"llm_config.json": llm, "vit_config.json": vit, "config.json": main}


def model_names(model: Bagel) -> frozenset[str]:
    """Names of the released layout among the model's parameters and buffers (no adapters)."""
    return frozenset(name for name in model.state_dict() if ".lora_" not in name)


def read_weights(
    files: Iterable[Path], expected: Mapping[str, tuple[int, ...]], device: str
) -> dict[str, Tensor]:
    """Read exactly the tensors ``expected`` (name to shape) from safetensors files.

    Raises:
        CheckpointError: a file is missing, truncated or no safetensors; a tensor is missing,
            unexpected or of another shape.
    """
    state: dict[str, Tensor] = {}
    for path in files:
        with open_tensors(path, owner=OWNER, framework="pt", device=device) as file:
            for name in file.keys():
                state[name] = file.get_tensor(name)
    _check(state, expected)
    return state


def _kept_type(name: str, stored: torch.dtype, asked: torch.dtype) -> torch.dtype:
    if name.startswith(FLOAT32_MODULES):
        return torch.float32
    return torch.promote_types(stored, asked) if name.startswith(TEXT_HEAD) else asked


def _check(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    missing = sorted(expected.keys() - state.keys())
    if missing:
        raise CheckpointError(
            f"the checkpoint must hold every tensor of its config; {len(missing)} are missing: "
            f"{_some(missing)}; check num_hidden_layers in the config or fetch the weights again"
        )
    unexpected = sorted(state.keys() - expected.keys())
    if unexpected:
        raise CheckpointError(
            f"the checkpoint may hold no tensor its config does not name; {len(unexpected)} do not "
            f"fit: {_some(unexpected)}; check num_hidden_layers in the config"
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != tuple(shape):
            raise CheckpointError(
                f"{name} must have shape {list(shape)} by the config, got "
                f"{list(state[name].shape)}; config and weights are of different models"
            )


def _some(names: list[str], count: int = 4) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _load_autoencoder(folder: Path, empty: Autoencoder, device: str) -> Autoencoder:
    levels = len(empty.config.ch_mult)
    names = {name: official_name(name, levels) for name in empty.kl.state_dict()}
    shapes = {k: tuple(v.shape) for k, v in empty.official_state().items()}
    state = read_weights([folder / AUTOENCODER_FILE], shapes, device)
    assert len(names) == len(shapes)
    floats = {name: tensor.float() for name, tensor in state.items()}
    empty.load_state_dict(empty.from_official(floats), assign=True)
    return empty


def _save(state: dict[str, Tensor], path: Path) -> None:
    with replacing(path) as partial:
        save_file(state, partial, metadata={"format": "pt"})


def _initialise(model: Bagel) -> None:
    """Variance-preserving start for training from nothing; the velocity head starts small."""
    depth = 2 * model.config.llm.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = 1.0 / math.sqrt(module.in_features)
            if name.endswith(("o_proj", "o_proj_moe_gen", "down_proj", "out_proj", "fc2")):
                std /= math.sqrt(depth)
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    nn.init.normal_(model.llm2vae.weight, std=0.02)
