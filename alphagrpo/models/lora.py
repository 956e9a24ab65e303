"""Low-rank adapters on the linear layers of any model, and freezing of all that does not train.

A starts Gaussian, B at zero, so a fresh adapter changes nothing. Rollout and replay run the same
unmerged arithmetic, in one product that adds to the layer's own; merging is for export only.

Legend of shapes: R rank, I inputs, O outputs of an adapted layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphagrpo.errors import CheckpointError, ConfigError

_ADAPTER = ".lora_"
"""In the names of adapter weights, and of no others."""


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
        self._lowered: dict[torch.dtype, _Lowered] = {}

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        out = functional.linear(x, self.weight, self.bias)
        if not self.enabled:
            return out
        a, b = self.factors(x.dtype)
        low = functional.linear(x, a)
        rows, low = out.view(-1, out.shape[-1]), low.view(-1, low.shape[-1])
        b = b.to(low.dtype).t()
        if torch.is_grad_enabled():
            # Not in place: autograd would keep the gradient of a view, and copy it.
            return torch.addmm(rows, low, b, alpha=self.scale).view(out.shape)
        rows.addmm_(low, b, alpha=self.scale)
        return out

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A and B in the type of the inputs.

        Without gradient they are converted once per version, into memory that stays, since 392
        conversions are half of the time of a token; with gradient at every call, for the gradient.
        """
        a, b = self.lora_a, self.lora_b
        if dtype == a.dtype or torch.is_grad_enabled():
            return a.to(dtype), b.to(dtype)
        lowered = self._lowered.get(dtype)
        if lowered is None or not lowered.made_of(a, b):
            lowered = self._lowered[dtype] = _Lowered(a, b, dtype)
        return lowered.of(a, b)

    def refresh(self) -> None:
        """Convert A and B again if they changed: what was captured reads the converted ones."""
        with torch.no_grad():
            for dtype in self._lowered:
                self.factors(dtype)

    def update(self) -> Tensor:
        """The weight change [O, I] the adapter stands for, in float32."""
        return self.scale * (self.lora_b @ self.lora_a)


class _Lowered:
    """An adapter's weights converted to another type, in place whenever they have changed.

    A change is told by torch's count of changes in place; what writes past torch counts it itself
    (:func:`alphagrpo.models.weights.apply`).
    """

    def __init__(self, a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
        self._a, self._b = (torch.empty_like(t, dtype=dtype, requires_grad=False) for t in (a, b))
        self._changes = (-1, -1)
        self._sources = (a.data_ptr(), b.data_ptr())

    def made_of(self, a: Tensor, b: Tensor) -> bool:
        """Whether these are the tensors that were converted."""
        return self._sources == (a.data_ptr(), b.data_ptr())

    def of(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """A and B as they are now."""
        changes = (a._version, b._version)
        if changes != self._changes:
            self._a.copy_(a)
            self._b.copy_(b)
            self._changes = changes
        return self._a, self._b


def add_lora(
    model: nn.Module, takes_adapter: Callable[[str], bool], *, rank: int, alpha: float, seed: int
) -> tuple[str, ...]:
    """Put an adapter on every linear layer whose name is chosen and freeze everything else.

    Args:
        model: the model; its layers are replaced in place, names of existing weights stay.
        takes_adapter: whether the linear layer of a name is adapted.
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
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and takes_adapter(name)
    ]
    if not targets:
        raise ConfigError(
            "LoRA needs linear layers to adapt, no name of this model's is chosen; load a model of "
            "the family that names them"
        )
    generator = torch.Generator().manual_seed(seed)
    for name in targets:
        _replace(model, name, LoraLinear(_linear(model, name), rank, alpha, generator))
    train_only(model, is_adapter_weight)
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


def refresh(model: nn.Module) -> None:
    """Convert all adapters that changed since they were last used; see :meth:`LoraLinear.refresh`.

    For graphs, which run no Python that would notice.
    """
    for adapter in adapters(model).values():
        adapter.refresh()


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes without its adapters: the reference policy of a KL term."""
    switched = list(adapters(model).values())
    before = [adapter.enabled for adapter in switched]
    for adapter in switched:
        adapter.enabled = False
    try:
        yield
    finally:
        for adapter, enabled in zip(switched, before, strict=True):
            adapter.enabled = enabled


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


def train_only(model: nn.Module, chosen: Callable[[str], bool]) -> dict[str, nn.Parameter]:
    """Freeze all parameters but those whose names are chosen; returns these, in model order."""
    training = {name: p for name, p in model.named_parameters() if chosen(name)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in training)
    return training


def is_adapter_weight(name: str) -> bool:
    """Whether a parameter's name is that of an adapter's A or B."""
    return _ADAPTER in name


def _linear(model: nn.Module, name: str) -> nn.Linear:
    return cast(nn.Linear, model.get_submodule(name))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
