"""The two-expert decoder: a Qwen2 shape with query-key norm, every weight twice.

One expert ("und") processes text, vision tokens and markers; the other ("gen", ``_moe_gen`` in the
checkpoint) processes latent tokens only. All tokens share one attention. The tokens of each expert
are one contiguous slice, understanding first: routing is a split, never a gather. The order of
tokens inside a block does not matter to attention, which sees rotary positions and a mask.

Legend of shapes: B sequence, U understanding token, G generation token, S = U + G, T cached token,
D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alphagrpo.kernels import rotate, swiglu
from alphagrpo.models.bagel.attention import attend, prepared
from alphagrpo.models.bagel.cache import Past
from alphagrpo.models.bagel.config import LlmConfig
from alphagrpo.models.bagel.embeddings import rotary
from alphagrpo.models.bagel.mlp_parts import in_parts
from alphagrpo.models.bagel.norm import RmsNorm
from alphagrpo.models.bagel.precision import working_type
from alphagrpo.options import AttentionKernel


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rotary tables of one call, [B, S or 1, 1, head_dim]; the query's hold the attention scale."""

    q_cos: Tensor
    q_sin: Tensor
    k_cos: Tensor
    k_sin: Tensor

    @classmethod
    def at(cls, position: Tensor, config: LlmConfig) -> Rotation:
        """Tables for ``position`` [B, S], or [B, 1] where all tokens share one position."""
        cos, sin = rotary(position, config.head_dim, config.rope_theta)
        cos, sin = cos[:, :, None], sin[:, :, None]
        # A rotation swaps halves by a roll, which keeps their signs: the sign is kept here.
        low, high = sin.chunk(2, dim=-1)
        sin = torch.cat([-low, high], dim=-1)
        scale = config.head_dim**-0.5
        return cls(cos * scale, sin * scale, cos, sin)


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class Attention(nn.Module):
    """Projections and query-key norms of both experts."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        hidden, dim = config.hidden_size, config.head_dim
        queries, keys = config.num_attention_heads * dim, config.num_key_value_heads * dim
        for suffix in ("", "_moe_gen"):
            self.add_module(f"q_proj{suffix}", nn.Linear(hidden, queries))
            self.add_module(f"k_proj{suffix}", nn.Linear(hidden, keys))
            self.add_module(f"v_proj{suffix}", nn.Linear(hidden, keys))
            self.add_module(f"o_proj{suffix}", nn.Linear(queries, hidden, bias=False))
            self.add_module(f"q_norm{suffix}", RmsNorm(dim, config.rms_norm_eps))
            self.add_module(f"k_norm{suffix}", RmsNorm(dim, config.rms_norm_eps))

    def queries(self, x: Tensor, suffix: str) -> Tensor:
        """Normalised queries [B, S, heads, head_dim] of one expert's tokens [B, S, D]."""
        modules = self._modules
        q = modules["q_proj" + suffix](x)  # type: ignore[misc]
        return modules["q_norm" + suffix](q.view(*x.shape[:2], -1, self.head_dim))  # type: ignore[misc]

    def keys_values(self, x: Tensor, suffix: str) -> tuple[Tensor, Tensor]:
        """Normalised keys and values, each [B, S, kv_heads, head_dim], of one expert's tokens."""
        modules = self._modules
        shape = (*x.shape[:2], -1, self.head_dim)
        k = modules["k_proj" + suffix](x).view(shape)  # type: ignore[misc]
        v = modules["v_proj" + suffix](x).view(shape)  # type: ignore[misc]
        return modules["k_norm" + suffix](k), v  # type: ignore[misc]

    def output(self, x: Tensor, suffix: str) -> Tensor:
        """Output projection [B, S, heads * head_dim] to [B, S, D]."""
        return self._modules["o_proj" + suffix](x)  # type: ignore[misc]


class Layer(nn.Module):
    """One decoder layer of both experts."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config)
        for suffix in ("", "_moe_gen"):
            self.add_module(f"mlp{suffix}", Mlp(config))
            self.add_module(f"input_layernorm{suffix}", RmsNorm(hidden, eps))
            self.add_module(f"post_attention_layernorm{suffix}", RmsNorm(hidden, eps))

    def forward(
        self,
        parts: Sequence[tuple[str, Tensor]],
        rotation: Rotation,
        past: Past,
        bias: Tensor | None,
        kernel: AttentionKernel,
        outputs: frozenset[str],
        recompute: bool = False,
    ) -> tuple[list[tuple[str, Tensor]], Tensor, Tensor]:
        """Process the experts' slices ``(suffix, [B, S_e, D])`` together.

        Slices whose suffix is not in ``outputs`` give keys and values only, and are not returned.
        ``recompute`` says that a checkpoint around this layer computes it again backward. Returns
        the slices, and this block's keys and values (without the past).
        """
        modules = self._modules
        norms = [_lowered(modules["input_layernorm" + suffix](x)) for suffix, x in parts]  # type: ignore[misc]
        k, v = self._keys_values(parts, norms, rotation)
        answered = [i for i, (suffix, _) in enumerate(parts) if suffix in outputs]
        if not answered:
            return [], k, v
        attention: Attention = self.self_attn
        q = _join([attention.queries(norms[i], parts[i][0]) for i in answered])
        q_cos, q_sin = rotation.q_cos, rotation.q_sin
        skipped = v.shape[1] - q.shape[1]
        if skipped and q_cos.shape[1] > 1:
            raise ValueError("only tokens at one shared rotary position may be left out as queries")
        q = rotate(q, q_cos, q_sin, dtype=v.dtype)
        if bias is not None and skipped and bias.shape[1] > 1:
            raise ValueError("only a block that sees everything may leave out queries")
        mixed = attend(q, *past.joined(k, v), bias, kernel)
        done = []
        start = 0
        for i in answered:
            suffix, x = parts[i]
            rows = mixed[:, start : start + x.shape[1]] if len(answered) > 1 else mixed
            start += x.shape[1]
            x = x + attention.output(rows, suffix)
            inner = _lowered(modules["post_attention_layernorm" + suffix](x))  # type: ignore[misc]
            x = x + in_parts(modules["mlp" + suffix], inner, recompute=recompute)  # type: ignore[arg-type]
            done.append((suffix, x))
        return done, k, v

    def _keys_values(
        self, parts: Sequence[tuple[str, Tensor]], norms: Sequence[Tensor], rotation: Rotation
    ) -> tuple[Tensor, Tensor]:
        pairs = [
            self.self_attn.keys_values(x, suffix)
            for (suffix, _), x in zip(parts, norms, strict=True)
        ]
        v = _join([pair[1] for pair in pairs])
        k = _join([pair[0] for pair in pairs])
        return rotate(k, rotation.k_cos, rotation.k_sin, dtype=v.dtype), v


def _lowered(x: Tensor) -> Tensor:
    """``x`` in autocast's type: one conversion here instead of one per projection."""
    return x.to(working_type(x))


def _join(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim=1)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one pass through the decoder gives."""

    und: Tensor | None
    """[B, U, D] after the final norm, or None where it was not asked for."""
    gen: Tensor | None
    """[B, G, D] after the final norm, or None where it was not asked for."""
    keys: tuple[Tensor, ...]
    """Per layer [B, S, kv_heads, head_dim]: this block only, understanding slice first."""
    values: tuple[Tensor, ...]


BOTH = frozenset({"", "_moe_gen"})
"""Both experts' outputs."""
GEN = frozenset({"_moe_gen"})
"""Only latent tokens' outputs: the velocity."""
NONE: frozenset[str] = frozenset()
"""Only keys and values: reading a picture."""


class Decoder(nn.Module):
    """Token table, layers and final norms, under the checkpoint's names."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.config = config
        self.kernel: AttentionKernel = "auto"
        self.recompute = 0
        """So many layers keep only their input and are computed again backward: less memory, more
        time. The first ones: what the others keep is free again when these are computed."""
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_moe_gen = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        und: Tensor | None,
        gen: Tensor | None,
        position: Tensor,
        bias: Tensor | None,
        past: Sequence[Past],
        outputs: frozenset[str] = BOTH,
    ) -> Decoded:
        """Run one block against a cache.

        Args:
            und: inputs [B, U, D] of the understanding expert, or None.
            gen: inputs [B, G, D] of the generation expert, or None.
            position: rotary positions [B, S] in the order (und, gen), or [B, 1] if all share one.
            bias: additive mask [B, S or 1, T + S], see :func:`~.attention.attend`.
            past: what each layer has cached.
            outputs: which experts' outputs are needed; the last layer computes no others.
        """
        parts = [(s, x) for s, x in (("", und), ("_moe_gen", gen)) if x is not None]
        rotation = Rotation.at(position, self.config)
        bias = prepared(bias, parts[0][1], self.kernel)
        keys, values = [], []
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            needed = BOTH if i < last else outputs
            inputs = (parts, rotation, past[i], bias, self.kernel, needed)
            if i < self.recompute and torch.is_grad_enabled():
                parts, k, v = checkpoint(layer, *inputs, True, use_reentrant=False)
            else:
                parts, k, v = layer(*inputs)
            keys.append(k)
            values.append(v)
        ends = dict(parts)
        return Decoded(
            und=self.norm(ends[""]) if "" in ends else None,
            gen=self.norm_moe_gen(ends["_moe_gen"]) if "_moe_gen" in ends else None,
            keys=tuple(keys),
            values=tuple(values),
        )


class LanguageModel(nn.Module):
    """Decoder and text head; the head is never tied to the token table."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
