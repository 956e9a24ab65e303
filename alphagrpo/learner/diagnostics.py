"""What to watch about an update, gathered without waiting for the device."""

from __future__ import annotations

from collections import defaultdict

from torch import Tensor

from alphagrpo.algorithms.objective import Objective
from alphagrpo.policy.contexts import ScoredThoughts


class Diagnostics:
    """Gathers over the groups of one step."""

    def __init__(self, rewards: Tensor, advantages: Tensor) -> None:
        self._rewards, self._advantages = rewards, advantages
        self._sums: defaultdict[str, float | Tensor] = defaultdict(float)
        self._shares: defaultdict[str, float] = defaultdict(float)
        self._largest: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._entropy: list[tuple[Tensor, Tensor]] = []
        self.parity: dict[str, float] = {}
        self.grad_norm = 0.0
        self.learning_rate = 0.0

    def add(self, part: str, objective: Objective, share: float) -> None:
        """One loss of ``part`` over ``share`` of the step's samples.

        Losses already share the step's denominator and are summed; the rest is averaged.
        """
        self._sums[f"{part}/loss"] += objective.loss.detach()
        self._shares[part] += share
        for name in ("clip_share", "mean_ratio", "kl"):
            self._sums[f"{part}/{name}"] += share * getattr(objective, name)
        self._largest[part].append(objective.max_abs_log_ratio)

    def add_entropy(self, thoughts: ScoredThoughts, sample_weights: Tensor) -> None:
        """Entropy of the distributions that valid thoughts were sampled from."""
        counted = thoughts.mask & (sample_weights > 0)[:, None]
        self._entropy.append(((thoughts.entropy * counted).sum(), counted.sum()))

    def max_abs_log_ratio(self, part: str) -> float:
        """Largest |log ratio| of ``part``, in the form that is clipped; 0 if it was not trained."""
        return max((float(value) for value in self._largest[part]), default=0.0)

    def metrics(self) -> dict[str, float]:
        """``area/name`` to value."""
        metrics = {
            "advantage/abs_mean": float(self._advantages.abs().mean()),
            "advantage/max": float(self._advantages.abs().max()),
            "advantage/zero_share": float((self._advantages == 0).double().mean()),
            "advantage/reward_std": float(self._rewards.std(correction=0)),
            "learner/grad_norm": self.grad_norm,
            "learner/learning_rate": self.learning_rate,
        }
        for name, value in self._sums.items():
            part, _, figure = name.partition("/")
            divisor = 1.0 if figure == "loss" else self._shares[part]
            metrics[name] = float(value) / divisor if divisor else 0.0
        for part in self._shares:
            metrics[f"{part}/max_abs_log_ratio"] = self.max_abs_log_ratio(part)
        for part, value in self.parity.items():
            metrics[f"parity/{part}_max_abs_log_ratio"] = value
        tokens = sum(float(count) for _, count in self._entropy)
        if tokens:
            metrics["text/entropy"] = sum(float(s) for s, _ in self._entropy) / tokens
            metrics["text/tokens_per_sample"] = tokens / len(self._rewards)
        return metrics
