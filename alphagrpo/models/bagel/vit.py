"""The vision transformer: SigLIP over patches given as vectors, with a learned position table.

The checkpoint's names are kept, hence ``vision_model.embeddings`` and so on.
Legend of shapes: B picture, N patch, E width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from alphagrpo.models.bagel.attention import attend
from alphagrpo.models.bagel.config import VitConfig
from alphagrpo.models.bagel.resize import ResizeRule
from alphagrpo.options import AttentionKernel


def whole_patches(pixels: NDArray[np.uint8], patch: int, max_patches: int) -> Tensor:
    """Pictures [B, H, W, 3] as bytes to [B, 3, h, w] in [-1, 1], both sides whole patches.

    BAGEL's rule: 512 x 512 becomes 518 x 518 for patches of 14 (method: section 10). On the CPU,
    so that every process that is given the same bytes reads the same picture.
    """
    rule = ResizeRule(max_size=max_patches * patch, min_size=1, stride=patch)
    width, height = rule.size(pixels.shape[2], pixels.shape[1])
    scaled = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    if (height, width) == scaled.shape[2:]:
        return scaled.contiguous()
    resized = functional.interpolate(scaled, (height, width), mode="bicubic", antialias=True)
    return resized.clamp(-1.0, 1.0)


class _Embeddings(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        values = config.patch_size**2 * config.num_channels
        self.patch_embedding = nn.Linear(values, config.hidden_size)
        table = (config.image_size // config.patch_size) ** 2
        self.position_embedding = nn.Embedding(table, config.hidden_size)


class _Attention(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.kernel: AttentionKernel = "auto"
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        shape = (batch, length, self.heads, width // self.heads)
        q = self.q_proj(x).view(shape) * shape[-1] ** -0.5
        k = self.k_proj(x).view(shape).transpose(1, 2)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        return self.out_proj(attend(q, k, v, bias, self.kernel))


class _Mlp(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class _Layer(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = _Attention(config)
        self.mlp = _Mlp(config)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), bias)
        return x + self.mlp(self.layer_norm2(x))


class _Encoder(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers_built))


class _VisionModel(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class VisionTransformer(nn.Module):
    """Patches [B, N, P*P*3] and their position ids [N] to features [B, N, E]."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = _VisionModel(config)

    def set_attention(self, kernel: AttentionKernel) -> None:
        """Compute attention with ``kernel`` from now on."""
        for module in self.modules():
            if isinstance(module, _Attention):
                module.kernel = kernel

    def forward(self, patches: Tensor, position: Tensor, bias: Tensor | None = None) -> Tensor:
        """Encode; ``bias`` [B, N, N] keeps pictures of different sizes in one row apart."""
        model = self.vision_model
        linear = model.embeddings.patch_embedding
        x = linear(patches.to(linear.weight.dtype)) + model.embeddings.position_embedding(position)
        for layer in model.encoder.layers:
            x = layer(x, bias)
        return model.post_layernorm(x)
