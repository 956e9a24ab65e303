"""Which of a policy's parameters a run trains: its adapters, or its experts' weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from alphagrpo.config.schema import LoraConfig
from alphagrpo.errors import ConfigError
from alphagrpo.models.lora import add_lora, is_adapter_weight, train_only
from alphagrpo.options import TrainKind
from alphagrpo.policy.family import FAMILY


def add_adapters(model: nn.Module, config: LoraConfig, seed: int) -> tuple[str, ...]:
    """Adapt the layers that the family names; see :func:`alphagrpo.models.lora.add_lora`."""
    return add_lora(model, FAMILY.takes_adapter, rank=config.rank, alpha=config.alpha, seed=seed)


def trainable_parameters(model: nn.Module, kind: TrainKind) -> dict[str, nn.Parameter]:
    """Say which parameters train, freeze the rest, and return the training ones by name.

    ``lora``: the adapters only. ``experts``: all weights of all decoder layers, both experts.

    Raises:
        ConfigError: ``kind`` is unknown, or names no parameter of this model.
    """
    rules: Mapping[str, Callable[[str], bool]] = {
        "lora": is_adapter_weight,
        "experts": lambda name: FAMILY.is_expert_weight(name) and not is_adapter_weight(name),
    }
    if kind not in rules:
        raise ConfigError(
            f"what trains must be one of {', '.join(rules)}, got {kind!r}; choose one of them"
        )
    chosen = train_only(model, rules[kind])
    if not chosen:
        raise ConfigError(
            f"{kind!r} names no parameter of this model; add adapters first or train 'experts'"
        )
    return chosen
