"""AdamW on float32 masters, whatever the parameters' own type is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from alphagrpo.config.optimization import OptimizerConfig
from alphagrpo.learner.sharding import Shards
from alphagrpo.policy.checkpoint import MASTER, require_masters
from alphagrpo.policy.family import FAMILY

MOMENTS = ("exp_avg", "exp_avg_sq")


class MasterAdamW:
    """One AdamW over named parameters.

    Updates of 1e-4 and less are lost in bfloat16 weights, so each such parameter has a float32
    master that is updated and then rounded into it (method: section 12). With ``shards`` the
    parameters are this rank's rows of each, which are the masters themselves.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        config: OptimizerConfig,
        shards: Shards | None = None,
    ) -> None:
        self._parameters, self._config, self.shards = dict(parameters), config, shards
        self._masters = {name: self._master(p) for name, p in self._parameters.items()}
        self._rounded = [
            name
            for name, p in self._parameters.items()
            if shards is None and self._masters[name] is not p
        ]
        self._rates = (config.lr, config.generation_lr or config.lr)
        split: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, master in self._masters.items():
            split[FAMILY.of_generation_expert(name)].append(master)
        self._adam = torch.optim.AdamW(
            [{"params": part, "lr": rate} for part, rate in zip(split, self._rates, strict=True)],
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            # All tensors at once would need as much memory again as the masters.
            foreach=None if shards is None else False,
        )

    def step(self, index: int, gradients: Sequence[Tensor | None]) -> float:
        """Clip and apply the gradients of step ``index`` (from 0); returns the unclipped norm.

        The parameters stay as they are if the norm is not finite, which the caller must look at.

        Args:
            index: of the step.
            gradients: float32, one per parameter in order; None leaves a parameter as it is. They
                are changed. With shards as FSDP2 leaves them, summed over the ranks.
        """
        for master, gradient in zip(self._masters.values(), gradients, strict=True):
            sharded = gradient is not None and self.shards is not None
            master.grad = _rows_of(gradient) if sharded else gradient
        norm = self._clip()
        if norm != norm or norm == float("inf"):
            return norm
        factor = self._config.rate_factor(index)
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._adam.step()
        self._adam.zero_grad()
        with torch.no_grad():
            for name in self._rounded:
                self._parameters[name].copy_(self._masters[name])
        return norm

    def _clip(self) -> float:
        """Clip the gradients by their norm over all shards; returns it unclipped."""
        masters = self._masters.values()
        norm = get_total_norm([master.grad for master in masters if master.grad is not None])
        if self.shards is not None:
            norm = self.shards.norm(norm.to(self.shards.device))
        clip_grads_with_norm_(masters, self._config.grad_clip, norm)
        return float(norm)

    def _master(self, parameter: Tensor) -> Tensor:
        if self.shards is not None:
            return _rows_of(parameter).requires_grad_()
        is_master = parameter.dtype == torch.float32
        return parameter if is_master else parameter.detach().float().requires_grad_()

    @property
    def learning_rate(self) -> float:
        """Of the last step; of the expert that thinks, where the two differ."""
        return float(self._adam.param_groups[0]["lr"])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the masters, whole ones where this rank holds shards."""
        return {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}

    def state_tensors(self) -> dict[str, Tensor]:
        """Masters and moments as ``<kind>/<parameter>``, and the count of steps.

        With shards, this rank's rows of each.
        """
        tensors = {MASTER + name: m.detach() for name, m in self._masters.items()}
        for name, master in self._masters.items():
            state = self._adam.state.get(master)
            if state:
                tensors |= {f"{kind}/{name}": state[kind] for kind in MOMENTS}
                tensors[f"step/{name}"] = state["step"]
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_tensors`; CheckpointError (and no change) where they do not fit."""
        require_masters(
            {name: tuple(master.shape) for name, master in self._masters.items()},
            {name: tuple(tensor.shape) for name, tensor in tensors.items()},
            "a learner's checkpoint must hold exactly its trainable parameters",
            "resume with the model section the run was started with",
        )
        for name, master in self._masters.items():
            master.copy_(tensors[MASTER + name])
            if name in self._rounded:
                self._parameters[name].copy_(master)
            self._adam.state.pop(master, None)
            if f"step/{name}" in tensors:
                self._adam.state[master] = {
                    "step": tensors[f"step/{name}"].clone(),
                    **{kind: tensors[f"{kind}/{name}"].to(master.device) for kind in MOMENTS},
                }


def _rows_of(sharded: Any) -> Tensor:
    """This rank's rows of a DTensor: its own memory, outside autograd."""
    return sharded.detach().to_local().detach()
