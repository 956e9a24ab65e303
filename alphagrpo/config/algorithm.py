"""The objective: both losses, their advantages, and what is done about lag."""

from __future__ import annotations

from pydantic import Field

from alphagrpo.config.sampling import Section
from alphagrpo.options import LagMode, RatioLevel, StdMode


class TextLossConfig(Section):
    """GSPO-style sequence ratio with DAPO-style asymmetric clip (method: objective, text part)."""

    level: RatioLevel = "sequence"
    clip_low: float = Field(0.20, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)
    weight: float = Field(1.0, ge=0)
    """lambda; the text loss also counts once per window step."""
    kl_weight: float = Field(0.0, ge=0)


class ImageLossConfig(Section):
    """Flow-GRPO over the SDE window (method: objective, image part)."""

    clip: float = Field(1e-5, gt=0)
    advantage_clamp: float = Field(5.0, gt=0)
    kl_weight: float = Field(0.0, ge=0)
    guidance_in_training: bool = True
    enabled: bool = True


class AlgorithmConfig(Section):
    """The GRPO objective."""

    advantage_std: StdMode = "batch"
    advantage_prompts: int | None = Field(8, ge=1)
    """With ``batch``: prompts over which a standard deviation is taken, in the order they were
    sampled (8 is the release's micro-rollout); None: all of the step.
    """
    advantage_epsilon: float = Field(1e-4, gt=0)
    text: TextLossConfig = TextLossConfig()
    image: ImageLossConfig = ImageLossConfig()
    lag: LagMode = "clip"
    """What is done about samples of an older policy, where ``rollout.max_lag`` is above 0.

    ``clip``: ratios are taken against the policy that drew, and the clips do the rest; the image
    clip of 1e-5 then takes the gradient from 35 to 49 % of the image terms (measured, one optimizer
    step of lag). ``importance``: ratios are taken against the learner's own weights at the step's
    begin, so that nothing is clipped, and each term is weighted by
    ``min(current / recorded, lag_cap)``. Without lag both are the same, bit for bit.
    """
    lag_cap: float = Field(2.0, ge=1)
    """Largest importance weight."""

    @property
    def importance_cap(self) -> float | None:
        """:attr:`lag_cap` where terms have importance weights, else None."""
        return self.lag_cap if self.lag == "importance" else None

    @property
    def has_kl(self) -> bool:
        """Whether the objective holds a KL term to the model without its adapters."""
        return self.text.kl_weight > 0 or self.image.kl_weight > 0
