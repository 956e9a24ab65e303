"""What a BAGEL checkpoint folder says about the model's shape. Free of torch.

Three files: ``llm_config.json`` and ``vit_config.json`` with the fields of the released ones, and
``config.json`` with everything else. Where ``config.json`` is absent or leaves a field out, the
value of the released BAGEL-7B-MoT is used, and special token ids come from the tokenizer's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphagrpo.errors import CheckpointError
from alphagrpo.models.bagel.config_fields import (
    FRAMING_TOKENS,
    expect_field,
    get_field,
    read_json,
    require_multiple,
    special_from_tokenizer,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmConfig:
    """Shape of the two-expert decoder (Qwen2 with query-key norm)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    head_dim: int = 0
    """0 means ``hidden_size / num_attention_heads``."""
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.head_dim == 0:
            require_multiple("hidden_size", self.hidden_size, self.num_attention_heads)
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        require_multiple("num_attention_heads", self.num_attention_heads, self.num_key_value_heads)
        require_multiple("head_dim", self.head_dim, 2)
        # The two-dimensional tables give each of (sin, cos) x (row, column) a quarter.
        require_multiple("hidden_size", self.hidden_size, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class VitConfig:
    """Shape of the vision transformer (SigLIP, patches as a linear layer)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    """As in ``vit_config.json``; the model built has one fewer."""
    num_attention_heads: int
    patch_size: int
    image_size: int
    num_channels: int = 3
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        require_multiple("vit hidden_size", self.hidden_size, self.num_attention_heads)
        require_multiple("vit image_size", self.image_size, self.patch_size)

    @property
    def layers_built(self) -> int:
        """The checkpoint has no weights for the last layer: BAGEL reads the one before it."""
        return self.num_hidden_layers - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderConfig:
    """Shape of the FLUX-type autoencoder; the defaults are the released one's."""

    resolution: int = 256
    in_channels: int = 3
    downsample: int = 8
    ch: int = 128
    out_ch: int = 3
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159

    def __post_init__(self) -> None:
        if 2 ** (len(self.ch_mult) - 1) != self.downsample:
            raise CheckpointError(
                "autoencoder: downsample must be 2 ** (levels - 1); "
                f"got {self.downsample} with {len(self.ch_mult)} levels; fix config.json"
            )
        for width in self.ch_mult:
            require_multiple("autoencoder ch * ch_mult", self.ch * width, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """Ids of the four framing tokens (``config.json``: ``special_token_ids``)."""

    bos_token_id: int
    eos_token_id: int
    start_of_image: int
    end_of_image: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BagelConfig:
    """Everything that is needed to build a BAGEL."""

    llm: LlmConfig
    vit: VitConfig
    special: SpecialIds
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    latent_patch_size: int = 2
    max_latent_size: int = 64
    """Rows and columns of the latent position table."""
    vit_max_num_patch_per_side: int = 70
    """Rows and columns of the vision position table, whatever the size of the picture."""
    time_embed_frequency_dim: int = 256
    training_timestep_shift: float = 1.0

    @property
    def latent_channels(self) -> int:
        """Values per image token: latent patch squared times autoencoder channels."""
        return self.latent_patch_size**2 * self.autoencoder.z_channels

    @property
    def pixels_per_token(self) -> int:
        """Side of the square of pixels one latent token covers."""
        return self.latent_patch_size * self.autoencoder.downsample

    @classmethod
    def from_folder(cls, folder: str | Path) -> BagelConfig:
        """Read the config files of a checkpoint folder.

        Raises:
            CheckpointError: a file or field is missing, or has a value this model cannot have.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(
                f"a BAGEL checkpoint is a folder; {folder} is none; "
                "give the folder that holds llm_config.json"
            )
        main = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
        return cls(
            llm=_read_llm(read_json(folder / "llm_config.json")),
            vit=_read_vit(read_json(folder / "vit_config.json")),
            special=_read_special(folder, main),
            autoencoder=_read_autoencoder(main.get("autoencoder", {})),
            latent_patch_size=get_field(main, "latent_patch_size", int, 2),
            max_latent_size=get_field(main, "max_latent_size", int, 64),
            vit_max_num_patch_per_side=get_field(main, "vit_max_num_patch_per_side", int, 70),
            time_embed_frequency_dim=get_field(main, "time_embed_frequency_dim", int, 256),
            training_timestep_shift=get_field(main, "training_timestep_shift", float, 1.0),
        )


def tiny_config(**changes: Any) -> BagelConfig:
    """A model of two layers and hidden size 32 for tests; ``changes`` replace top-level fields."""
    fields: dict[str, Any] = {
        "llm": LlmConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=40,
        ),
        "vit": VitConfig(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=2,
            patch_size=8,
            image_size=48,
        ),
        "special": SpecialIds(bos_token_id=1, eos_token_id=2, start_of_image=3, end_of_image=4),
        "autoencoder": AutoencoderConfig(
            resolution=32, ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, z_channels=4
        ),
        "max_latent_size": 6,
        "vit_max_num_patch_per_side": 6,
    }
    return BagelConfig(**(fields | changes))


def _read_llm(raw: Mapping[str, Any]) -> LlmConfig:
    for key, expected in (
        ("hidden_act", "silu"),
        ("tie_word_embeddings", False),
        ("use_sliding_window", False),
        ("rope_scaling", None),
        ("qk_norm", True),
        ("layer_module", "Qwen2MoTDecoderLayer"),
    ):
        expect_field(raw, key, expected)
    return LlmConfig(
        hidden_size=get_field(raw, "hidden_size", int),
        intermediate_size=get_field(raw, "intermediate_size", int),
        num_hidden_layers=get_field(raw, "num_hidden_layers", int),
        num_attention_heads=get_field(raw, "num_attention_heads", int),
        num_key_value_heads=get_field(raw, "num_key_value_heads", int),
        vocab_size=get_field(raw, "vocab_size", int),
        head_dim=get_field(raw, "head_dim", int, 0),
        rope_theta=get_field(raw, "rope_theta", float, 1e6),
        rms_norm_eps=get_field(raw, "rms_norm_eps", float, 1e-6),
    )


def _read_vit(raw: Mapping[str, Any]) -> VitConfig:
    expect_field(raw, "hidden_act", "gelu_pytorch_tanh")
    return VitConfig(
        hidden_size=get_field(raw, "hidden_size", int),
        intermediate_size=get_field(raw, "intermediate_size", int),
        num_hidden_layers=get_field(raw, "num_hidden_layers", int),
        num_attention_heads=get_field(raw, "num_attention_heads", int),
        patch_size=get_field(raw, "patch_size", int),
        image_size=get_field(raw, "image_size", int),
        num_channels=get_field(raw, "num_channels", int, 3),
        layer_norm_eps=get_field(raw, "layer_norm_eps", float, 1e-6),
    )


def _read_autoencoder(raw: Mapping[str, Any]) -> AutoencoderConfig:
    base = AutoencoderConfig()
    mult = raw.get("ch_mult", list(base.ch_mult))
    if not isinstance(mult, list) or not all(isinstance(m, int) and m > 0 for m in mult):
        raise CheckpointError(f"autoencoder ch_mult must be a list of positive int, got {mult!r}")
    return AutoencoderConfig(
        resolution=get_field(raw, "resolution", int, base.resolution),
        in_channels=get_field(raw, "in_channels", int, base.in_channels),
        downsample=get_field(raw, "downsample", int, base.downsample),
        ch=get_field(raw, "ch", int, base.ch),
        out_ch=get_field(raw, "out_ch", int, base.out_ch),
        ch_mult=tuple(mult),
        num_res_blocks=get_field(raw, "num_res_blocks", int, base.num_res_blocks),
        z_channels=get_field(raw, "z_channels", int, base.z_channels),
        scale_factor=get_field(raw, "scale_factor", float, base.scale_factor),
        shift_factor=get_field(raw, "shift_factor", float, base.shift_factor),
    )


def _read_special(folder: Path, main: Mapping[str, Any]) -> SpecialIds:
    raw = main.get("special_token_ids")
    if raw is None:
        raw = special_from_tokenizer(folder)
    return SpecialIds(**{name: get_field(raw, name, int) for name in FRAMING_TOKENS})
