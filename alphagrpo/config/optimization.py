"""The optimizer and how its rate changes over a run."""

from __future__ import annotations

from pydantic import Field

from alphagrpo.config.sampling import Section


class OptimizerConfig(Section):
    """AdamW on the trainable parameters, with float32 masters."""

    lr: float = Field(5e-5, gt=0)
    generation_lr: float | None = Field(None, gt=0)
    """Of the generation expert, which denoises, where it is to differ from that of the expert which
    reads and thinks: thoughts learn from far fewer numbers than pictures do."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    warmup_steps: int = Field(0, ge=0)
    decay_steps: int | None = Field(None, ge=1)
    """Steps from the run's first in which the rates fall linearly to 0; None (the release):
    constant after the warm-up."""

    def rate_factor(self, index: int) -> float:
        """What the rates are multiplied with at step ``index`` (from 0), in [0, 1]."""
        rise = (index + 1) / self.warmup_steps if self.warmup_steps else 1.0
        fall = 1.0 - index / self.decay_steps if self.decay_steps else 1.0
        return max(0.0, min(1.0, rise, fall))

    def check(self, num_steps: int) -> None:
        """Raise ValueError where a run of ``num_steps`` goes on with a rate of 0."""
        if self.decay_steps is not None and self.decay_steps < num_steps:
            raise ValueError(
                f"optimizer.decay_steps must be at least training.num_steps, got "
                f"{self.decay_steps} and {num_steps}: later steps would train nothing; set both "
                "to the same number"
            )
