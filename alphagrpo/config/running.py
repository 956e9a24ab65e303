"""How long a run trains, what it keeps, and what is looked at before, between and after."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from alphagrpo.config.sampling import GuidanceConfig, SamplingParams, Section


class TrainingConfig(Section):
    """How long, how often to save, and what to look at."""

    num_steps: int = Field(100, ge=1)
    max_minutes: float | None = Field(None, gt=0)
    """Training stops at the step that passes this many minutes, evaluations not counted."""
    checkpoint_every: int = Field(20, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    grace_s: float = Field(30.0, ge=0)
    """Seconds from SIGTERM or SIGINT to the kill that follows it, as the platform has them: a step
    that would end later is abandoned at once, so that what was learnt before it can be saved."""
    report_every: int = Field(5, ge=1)
    """Steps after which the report is written again while the run goes on."""
    report_groups_every: int = Field(10, ge=1)
    """Steps between sample groups kept with pictures for the report."""
    keep_pictures: Literal["report", "all"] | Annotated[int, Field(ge=1)] = "report"
    """Pictures that stay in the run folder: those of four groups at the report's steps; all; or so
    many of each group of every step, beside the report's. A picture takes 2.8 kB at 48 x 48 pixels
    (measured; all of the demo's 400 steps: 0.2 GB), some 0.4 MB at 512 x 512.
    """
    parity_limit_share: float = Field(0.1, gt=0)
    """Largest |log ratio| at step 0 as a share of the clip range; a run above it is refused."""

    def kept_pictures(self, group_size: int) -> int:
        """Pictures kept of each group of ``group_size``, whether or not the report shows it."""
        kept = {"report": 0, "all": group_size}.get(str(self.keep_pictures))
        return min(int(self.keep_pictures), group_size) if kept is None else kept


class EvaluationConfig(Section):
    """Held-out pictures before and after training, judged by the oracle where the world has one."""

    num_plain: int = Field(256, ge=0)
    num_thought: int = Field(256, ge=0)
    num_points: int = Field(16, ge=2)
    guidance: GuidanceConfig = GuidanceConfig()
    text: SamplingParams = SamplingParams(temperature=0.3, top_p=1.0)
    batch_size: int = Field(64, ge=1)
    rounds: int = Field(0, ge=0, le=8)
    """Refinements after the picture; each is judged with the DVReward gate and without."""
    refinement_guidance: GuidanceConfig | None = None
    """Of those refinements; None: as ``refinement.flow.guidance``."""
    every: int | None = Field(None, ge=1)
    """Steps between probes: evaluations of the same few prompts of each sort, for the curve."""
    num_probe: int = Field(32, ge=1)
    """Prompts of each sort in a probe, chosen so that they stand for all."""
