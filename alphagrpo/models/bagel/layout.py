"""The official checkpoint layout: which files a folder holds, and what weights are called.

Free of torch.
"""

from __future__ import annotations

import re
from pathlib import Path

from alphagrpo.errors import CheckpointError
from alphagrpo.models.bagel.config import BagelConfig
from alphagrpo.models.bagel.config_fields import read_json
from alphagrpo.tensor_files import check_tensor_file

WEIGHT_FILES = ("ema.safetensors", "model.safetensors", "weights.safetensors")
AUTOENCODER_FILE = "ae.safetensors"
OWNER = "a BAGEL checkpoint"
"""Who needs the files, in errors."""

GENERATION = "_moe_gen"
"""In the names of the expert that denoises pictures; those of the other have nothing there."""
_LAYERS = "language_model.model.layers."
_ADAPTED = re.compile(
    re.escape(_LAYERS) + r"\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
)


def check_files(folder: Path) -> BagelConfig:
    """The folder is a whole checkpoint; returns its shape.

    Files are checked by their headers and sizes, so a truncated one is found without reading it.

    Raises:
        CheckpointError: a file is missing, truncated or does not say what it must.
    """
    config = BagelConfig.from_folder(folder)
    for path in (*weight_files(folder), folder / AUTOENCODER_FILE):
        check_tensor_file(path, owner=OWNER)
    return config


def weight_files(folder: Path) -> list[Path]:
    """The files of the decoder and the vision transformer: one, or the shards of an index."""
    for name in WEIGHT_FILES:
        if (folder / name).exists():
            return [folder / name]
    for index in sorted(folder.glob("*.safetensors.index.json")):
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise CheckpointError(f"{index} must hold a weight_map; fetch the file again")
        return [folder / name for name in sorted(set(shards.values()))]
    raise CheckpointError(
        f"{OWNER} needs its weights; {folder} holds none of {', '.join(WEIGHT_FILES)} "
        f"and no index of shards; copy {WEIGHT_FILES[0]} there"
    )


def takes_adapter(name: str) -> bool:
    """Whether a module is q, k, v, o, gate, up or down of a decoder layer, of either expert."""
    return _ADAPTED.fullmatch(name.replace(GENERATION, "")) is not None


def is_expert_weight(name: str) -> bool:
    """Whether a parameter is a decoder layer's, of either expert."""
    return name.startswith(_LAYERS)


def of_generation_expert(name: str) -> bool:
    """Whether a parameter (or adapter) belongs to the expert that denoises pictures."""
    return GENERATION in name
