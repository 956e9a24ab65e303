"""BAGEL's autoencoder (FLUX type) as diffusers' AutoencoderKL, and the names of its checkpoint.

Legend of shapes: B picture, Z latent channel, h = H / 8, w = W / 8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from alphagrpo.models.bagel.config import AutoencoderConfig


class Autoencoder(nn.Module):
    """Pictures in [-1, 1] to scaled latents and back, always in float32."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        levels = len(config.ch_mult)
        # diffusers is untyped: mixins hide that this is a module.
        self.kl: Any = AutoencoderKL(
            in_channels=config.in_channels,
            out_channels=config.out_ch,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(config.ch * m for m in config.ch_mult),
            layers_per_block=config.num_res_blocks,
            latent_channels=config.z_channels,
            norm_num_groups=32,
            sample_size=config.resolution,
            scaling_factor=config.scale_factor,
            shift_factor=config.shift_factor,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=True,
        )

    def moments(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] to the posterior's mean and log-variance [B, 2Z, h, w] (unscaled)."""
        with torch.autocast(pixels.device.type, enabled=False):
            return self.kl.encoder(pixels.float())

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents [B, Z, h, w]: the posterior's mean, or a sample with ``noise``.

        ``scale * (mean + exp(logvar / 2) * noise - shift)``, noise [B, Z, h, w] standard normal;
        the released code samples at inference too.
        """
        mean, log_variance = self.moments(pixels).chunk(2, dim=1)
        if noise is not None:
            mean = mean + torch.exp(0.5 * log_variance) * noise
        return self.config.scale_factor * (mean - self.config.shift_factor)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, Z, h, w] to pictures [B, 3, H, W], not clamped."""
        with torch.autocast(latents.device.type, enabled=False):
            unscaled = latents.float() / self.config.scale_factor + self.config.shift_factor
            return self.kl.decoder(unscaled)

    def official_state(self) -> dict[str, Tensor]:
        """The weights under the names and shapes of the released ``ae.safetensors``."""
        levels = len(self.config.ch_mult)
        state = {}
        for name, tensor in self.kl.state_dict().items():
            official = official_name(name, levels)
            is_projection = ".mid.attn_1." in official and tensor.dim() == 2
            # 1x1 convolutions there, linear layers here.
            state[official] = tensor[:, :, None, None] if is_projection else tensor
        return state

    def from_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict for this module out of the released names; unknown names are left out."""
        levels = len(self.config.ch_mult)
        ours = {}
        for name in self.kl.state_dict():
            tensor = state[official_name(name, levels)]
            if ".attentions.0.to_" in name and tensor.dim() == 4:
                tensor = tensor[:, :, 0, 0]
            ours[f"kl.{name}"] = tensor
        return ours


_RULES = (
    (re.compile(r"mid_block\.attentions\.0\.group_norm"), "mid.attn_1.norm"),
    (re.compile(r"mid_block\.attentions\.0\.to_out\.0"), "mid.attn_1.proj_out"),
    (re.compile(r"mid_block\.attentions\.0\.to_([qkv])"), r"mid.attn_1.\1"),
    (re.compile(r"down_blocks\.(\d+)\.resnets"), r"down.\1.block"),
    (re.compile(r"down_blocks\.(\d+)\.downsamplers\.0"), r"down.\1.downsample"),
    (re.compile(r"conv_shortcut"), "nin_shortcut"),
    (re.compile(r"conv_norm_out"), "norm_out"),
)


def official_name(name: str, levels: int) -> str:
    """The released checkpoint's name of diffusers' parameter ``name``."""
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    # The released decoder numbers its levels like the encoder and runs them backwards.
    name = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", name)
    return re.sub(
        r"^decoder\.up\.(\d+)\.(resnets|upsamplers\.0)",
        lambda m: f"decoder.up.{m[1]}.{'block' if m[2] == 'resnets' else 'upsample'}",
        name,
    )
