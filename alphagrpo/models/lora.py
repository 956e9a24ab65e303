"""Low-rank adapters for both experts, and which parameters of a model train.

Adapters are added to q, k, v, o, gate, up and down of every decoder layer, both experts (AlphaGRPO,
training details: rank 32, alpha 64). A starts Gaussian, B at zero, so a fresh adapter changes
nothing. Rollout and replay run the same unmerged arithmetic; merging is for export only.

Legend of shapes: R rank, I inputs, O outputs of an adapted layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphagrpo.errors import CheckpointError, ConfigError

TrainKind = Literal["lora", "experts", "all"]

LAYERS = "language_model.model.layers."
_TARGET = re.compile(re.escape(LAYERS) + r"\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)")


class LoraLinear(nn.Linear):
    """A linear layer with an adapter: ``x W^T + bias + (alpha / R) (x A^T) B^T``.

    ``weight`` and ``bias`` are those of the layer it replaces, under the same names.
    """

    def __init__(
        self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        # The base class would allocate weights only to drop them.
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.scale = alpha / rank
        self.enabled = True
        device = base.weight.device
        start = torch.randn(rank, base.in_features, generator=generator) / rank
        self.lora_a = nn.Parameter(start.to(device))
        """[R, I] float32 whatever the layer's type: small updates would be lost in bfloat16."""
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        """[O, R] float32."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        out = functional.linear(x, self.weight, self.bias)
        if not self.enabled:
            return out
        low = functional.linear(x, self.lora_a.to(x.dtype))
        return out + functional.linear(low, self.lora_b.to(x.dtype)) * self.scale

    def update(self) -> Tensor:
        """The weight change [O, I] the adapter stands for, in float32."""
        return self.scale * (self.lora_b @ self.lora_a)


def add_lora(model: nn.Module, *, rank: int, alpha: float, seed: int) -> tuple[str, ...]:
    """Put an adapter on every target layer and freeze everything else.

    Args:
        model: the model; its layers are replaced in place, names of existing weights stay.
        rank: R >= 1.
        alpha: the adapter's output is scaled by ``alpha / rank``.
        seed: the adapters' start is a function of it and of the model's shape alone.

    Returns:
        Names of the adapted layers.

    Raises:
        ConfigError: the rank is below 1, the model has adapters already, or no layer to adapt.
    """
    if rank < 1:
        raise ConfigError(f"a LoRA rank must be at least 1, got {rank}; use 32 as the paper does")
    if adapters(model):
        raise ConfigError("a model takes one set of LoRA adapters; merge or remove the first")
    targets = [name for name, module in model.named_modules() if _is_target(name, module)]
    if not targets:
        raise ConfigError(f"LoRA needs linear layers under {LAYERS}, this model has none")
    generator = torch.Generator().manual_seed(seed)
    for name in targets:
        _replace(model, name, LoraLinear(_linear(model, name), rank, alpha, generator))
    trainable_parameters(model, "lora")
    return tuple(targets)


def adapters(model: nn.Module) -> dict[str, LoraLinear]:
    """Adapted layers by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors by name, detached: what is published and kept in checkpoints."""
    state = {}
    for name, adapter in adapters(model).items():
        state[f"{name}.lora_a"] = adapter.lora_a.detach()
        state[f"{name}.lora_b"] = adapter.lora_b.detach()
    return state


@torch.no_grad()
def load_lora_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy adapter tensors into a model with adapters of the same shape.

    Raises:
        CheckpointError: names or shapes differ; nothing was copied.
    """
    own = lora_state(model)
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())[:4]
        raise CheckpointError(
            f"adapter names must be the model's; {odd} are on one side only; "
            "call add_lora with the rank the adapters were trained with"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"{name} must have shape {list(tensor.shape)}, got {list(state[name].shape)}; "
                "use the rank the adapters were trained with"
            )
    for name, tensor in own.items():
        tensor.copy_(state[name])


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes without its adapters: the reference policy of a KL term."""
    found = list(adapters(model).values())
    before = [adapter.enabled for adapter in found]
    for adapter in found:
        adapter.enabled = False
    try:
        yield
    finally:
        for adapter, was in zip(found, before, strict=True):
            adapter.enabled = was


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add every adapter to its layer's weight and remove it: for export, never inside training."""
    for name, adapter in adapters(model).items():
        merged = adapter.weight.float() + adapter.update()
        adapter.weight.copy_(merged.to(adapter.weight.dtype))
        plain = nn.Linear(1, 1, bias=False, device="meta")
        plain.in_features, plain.out_features = adapter.in_features, adapter.out_features
        plain.weight = adapter.weight
        plain.register_parameter("bias", adapter.bias)
        _replace(model, name, plain)


def trainable_parameters(model: nn.Module, kind: TrainKind) -> dict[str, nn.Parameter]:
    """Say which parameters train, freeze the rest, and return the training ones by name.

    ``lora``: the adapters only. ``experts``: all weights of all decoder layers, both experts.
    ``all``: everything; adapters, where there are any, included.

    Raises:
        ConfigError: ``kind`` is unknown, or names no parameter of this model.
    """
    rules = {
        "lora": lambda name: ".lora_" in name,
        "experts": lambda name: name.startswith(LAYERS) and ".lora_" not in name,
        "all": lambda name: True,
    }
    if kind not in rules:
        raise ConfigError(f"what trains must be one of {', '.join(rules)}, got {kind!r}")
    chosen = {name: p for name, p in model.named_parameters() if rules[kind](name)}
    if not chosen:
        raise ConfigError(
            f"{kind!r} names no parameter of this model; call add_lora first or train 'experts'"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    return chosen


def of_generation_expert(name: str) -> bool:
    """Whether a parameter (or adapter) belongs to the expert that denoises pictures."""
    return "_moe_gen" in name


def _is_target(name: str, module: nn.Module) -> bool:
    plain = name.replace("_moe_gen", "")
    return isinstance(module, nn.Linear) and _TARGET.fullmatch(plain) is not None


def _linear(model: nn.Module, name: str) -> nn.Linear:
    return cast(nn.Linear, model.get_submodule(name))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
