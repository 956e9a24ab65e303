"""AdamW on float32 masters, whatever the parameters' own type is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alphagrpo.config.optimization import OptimizerConfig
from alphagrpo.policy.checkpoint import MASTER, require_masters
from alphagrpo.policy.family import FAMILY

MOMENTS = ("exp_avg", "exp_avg_sq")


class MasterAdamW:
    """One AdamW over named parameters.

    Updates of 1e-4 and less are lost in bfloat16 weights, so each such parameter has a float32
    master that is updated and then rounded into it (method: section 12).
    """

    def __init__(self, parameters: Mapping[str, Tensor], config: OptimizerConfig) -> None:
        self._parameters, self._config = dict(parameters), config
        self._masters = {
            name: p if p.dtype == torch.float32 else p.detach().float().requires_grad_()
            for name, p in self._parameters.items()
        }
        self._rates = (config.lr, config.generation_lr or config.lr)
        split: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, master in self._masters.items():
            split[FAMILY.of_generation_expert(name)].append(master)
        self._adam = torch.optim.AdamW(
            [{"params": part, "lr": rate} for part, rate in zip(split, self._rates, strict=True)],
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )

    def step(self, index: int, gradients: Sequence[Tensor | None]) -> float:
        """Clip and apply the gradients of step ``index`` (from 0); returns the unclipped norm.

        The parameters stay as they are if the norm is not finite, which the caller must look at.

        Args:
            index: of the step.
            gradients: float32, one per parameter in order; None leaves a parameter as it is. They
                are changed.
        """
        for master, gradient in zip(self._masters.values(), gradients, strict=True):
            master.grad = gradient
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters.values(), self._config.grad_clip))
        if norm != norm or norm == float("inf"):
            return norm
        factor = self._config.rate_factor(index)
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._adam.step()
        self._adam.zero_grad()
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if self._masters[name] is not parameter:
                    parameter.copy_(self._masters[name])
        return norm

    @property
    def learning_rate(self) -> float:
        """Of the last step; of the expert that thinks, where the two differ."""
        return float(self._adam.param_groups[0]["lr"])

    def state_tensors(self) -> dict[str, Tensor]:
        """Masters and moments as ``<kind>/<parameter>``, and the count of steps."""
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
            tensors,
            "a learner's checkpoint must hold exactly its trainable parameters",
            "resume with the model section the run was started with",
        )
        for name, master in self._masters.items():
            master.copy_(tensors[MASTER + name])
            self._parameters[name].copy_(master)
            self._adam.state.pop(master, None)
            if f"step/{name}" in tensors:
                self._adam.state[master] = {
                    "step": tensors[f"step/{name}"].clone(),
                    **{kind: tensors[f"{kind}/{name}"].to(master.device) for kind in MOMENTS},
                }
