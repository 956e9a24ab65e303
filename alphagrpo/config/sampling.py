"""How texts are sampled and pictures denoised; shared by drawing, refining and evaluation."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from alphagrpo.options import Renorm, StartNoise


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplingParams(Section):
    """How a thought is sampled. Log-probabilities are always those of the unfiltered softmax
    at 1.
    """

    temperature: float = Field(1.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(0.8, gt=0, le=1)


class GuidanceConfig(Section):
    """Classifier-free guidance (BAGEL's scales and renormalisation)."""

    text_scale: float = Field(4.0, ge=1)
    image_scale: float = Field(1.0, ge=1)
    interval: tuple[float, float] = (0.4, 1.0)
    """Active for lo < t <= hi, in shifted time."""
    renorm: Renorm = "global"
    renorm_min: float = Field(0.0, ge=0, le=1)


class WindowConfig(Section):
    """The SDE steps, which are trained; all others are Euler steps."""

    length: int = Field(10, ge=1)
    allowed: tuple[int, int] = (0, 11)
    """The window lies inside steps [lo, hi)."""


class FlowConfig(Section):
    """The denoising path of the rollout."""

    num_points: int = Field(16, ge=2)
    """Points of the time grid; the sampler takes ``num_points - 1`` steps."""
    shift: float = Field(3.0, gt=0)
    noise_level: float = Field(0.7, gt=0)
    window: WindowConfig = WindowConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    start_noise: StartNoise = "sample"
    """``group``: all samples of a group start from the same noise, as helps small models."""

    def check(self, name: str) -> None:
        """Raise ValueError where the window or the guidance interval is impossible; ``name`` is the
        section's place in the config.
        """
        (low, high), steps = self.window.allowed, self.num_points - 1
        if not 0 <= low < high <= steps:
            raise ValueError(
                f"{name}.window.allowed must lie inside the schedule's {steps} steps, "
                f"got [{low}, {high}); raise {name}.num_points or narrow the range"
            )
        if self.window.length > high - low:
            raise ValueError(
                f"{name}.window.length must fit into its allowed range, got "
                f"{self.window.length} steps in [{low}, {high}); shorten the window "
                "or widen the range"
            )
        low_t, high_t = self.guidance.interval
        if not low_t < high_t:
            raise ValueError(
                f"{name}.guidance.interval must be increasing, got [{low_t}, {high_t}]; swap them"
            )
