"""Self-reflective refinement: what a picture is drawn again from, and what is trained of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from alphagrpo.config.sampling import FlowConfig, GuidanceConfig, SamplingParams, Section
from alphagrpo.options import Rectification


class DraftConfig(Section):
    """Stage 1: the pictures of a prompt among which one is refined (method: section 2.2)."""

    num: int = Field(7, ge=1)
    """Pictures per prompt. With ``trained`` it is the group size that counts."""
    num_points: int = Field(40, ge=2)
    """Points of the time grid, all steps by ODE."""
    guidance: GuidanceConfig = GuidanceConfig()
    think: bool = False
    """Whether drafts are thought about first, under the system prompt; the release does not."""
    text: SamplingParams = SamplingParams(temperature=0.3, top_p=1.0)
    pick: Literal["worst", "sampled"] = "worst"
    """Which scored draft is refined: the one of lowest reward, or one sampled by softmax(1 - r)."""
    trained: bool = False
    """The release's ``mix``: stage 1 is a full text-to-image rollout, trained as such."""


class RefinementConfig(Section):
    """Stage 2: reflect on the draft and draw again (AlphaGRPO; method: sections 2.2 and 2.3)."""

    prompt: str
    """What is read after the picture; ``{prompt}`` is replaced by the user's prompt. It may claim
    that the picture is wrong, it never says what a verifier found.
    """
    share: float = Field(0.5, ge=0, le=1)
    """With ``task.kind: mixed``, the share of prompts that are refined."""
    rounds: int = Field(1, ge=1, le=8)
    """Refinements of one trajectory in training; each begins from the picture before it, and all
    are trained under the advantage of the last.
    """
    rectification: Rectification = "max"
    """False-positive rectification, see ``alphagrpo.rewards.rectification``."""
    format_bonus: float = Field(0.0, ge=0)
    """As ``reward.format_bonus``, for refinements; added after rectification."""
    text_weight: float = Field(0.2, ge=0)
    """lambda of refinements, in place of ``algorithm.text.weight``."""
    drafts: DraftConfig = DraftConfig()
    text: SamplingParams = SamplingParams()
    flow: FlowConfig = FlowConfig()

    @field_validator("rectification", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        """YAML reads a bare ``off`` as false."""
        return "off" if value is False else value

    @field_validator("prompt")
    @classmethod
    def _quotes_the_prompt(cls, text: str) -> str:
        if text.count("{prompt}") != 1:
            raise ValueError(
                "a reflection prompt must hold {prompt} once, where the user's prompt is put, got "
                f"{text!r}; write for example 'the picture should be {{prompt}}'"
            )
        return text

    def request(self, prompt: str) -> str:
        """The reflection prompt for a user's ``prompt``."""
        return self.prompt.replace("{prompt}", prompt, 1)
