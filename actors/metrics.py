"""Ray metrics of a run: ``alphagrpo_<area>_<name>_<unit>``, tagged with run and role only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge

if TYPE_CHECKING:
    from alphagrpo.rollout.runner import RolloutResult

TAGS = ("run", "role")

STEP_GAUGES: Mapping[str, tuple[str, str]] = {
    "reward/mean": ("alphagrpo_reward_mean_value", "Mean reward of the step, bonus included"),
    "reward/std": ("alphagrpo_reward_std_value", "Spread of the step's rewards"),
    "reward/score": ("alphagrpo_reward_score_value", "Mean score of the reward program"),
    "samples/valid_share": ("alphagrpo_samples_valid_ratio", "Share of samples with a score"),
    "samples/per_second": ("alphagrpo_samples_rate_per_second", "Samples per second"),
    "refine/draft_score": ("alphagrpo_refine_draft_score_value", "Mean score of refined drafts"),
    "refine/gain": ("alphagrpo_refine_gain_value", "Mean score of refinements over their draft's"),
    "refine/improved_share": ("alphagrpo_refine_improved_ratio", "Refinements above their draft"),
    "refine/harmed_share": ("alphagrpo_refine_harmed_ratio", "Refinements below their draft"),
    "groups/dropped": ("alphagrpo_groups_dropped_count", "Groups of the step that were dropped"),
    "advantage/abs_mean": ("alphagrpo_advantage_abs_mean_value", "Mean |advantage|"),
    "text/clip_share": ("alphagrpo_text_clip_ratio", "Share of text terms the clip removes"),
    "image/clip_share": ("alphagrpo_image_clip_ratio", "Share of image terms the clip removes"),
    "text/max_abs_log_ratio": ("alphagrpo_text_log_ratio_max", "Largest |log ratio| of text"),
    "image/max_abs_log_ratio": ("alphagrpo_image_log_ratio_max", "Largest |log ratio| of images"),
    "text/entropy": ("alphagrpo_text_entropy_nats", "Entropy per sampled token"),
    "learner/grad_norm": ("alphagrpo_learner_grad_norm_value", "Gradient norm before clipping"),
    "learner/step": ("alphagrpo_learner_step_count", "Optimizer steps so far"),
    "learner/lag": ("alphagrpo_learner_lag_versions", "Versions the step's groups were behind"),
    "time/rollout_s": ("alphagrpo_time_rollout_seconds", "Sampling, of the busiest runner"),
    "time/verify_wait_s": ("alphagrpo_time_verify_wait_seconds", "Waiting for verdicts alone"),
    "time/learn_s": ("alphagrpo_time_learn_seconds", "The optimizer step"),
    "time/sync_s": ("alphagrpo_time_sync_seconds", "Publishing and pulling weights"),
}
"""Metric of a step to the gauge that shows it and its description."""


class StepGauges:
    """The driver's view: the last step's figures."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run, "role": "driver"}
        self._gauges = {
            key: Gauge(name, description=text, tag_keys=TAGS)
            for key, (name, text) in STEP_GAUGES.items()
        }

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Show what a step's metrics say; figures it lacks keep their last value."""
        for key, gauge in self._gauges.items():
            if key in metrics:
                gauge.set(metrics[key], tags=self._tags)


class RunnerGauges:
    """A runner's view of its own work."""

    def __init__(self, run: str, role: str) -> None:
        self._tags = {"run": run, "role": role}
        self._drawing = Gauge(
            "alphagrpo_rollout_draw_seconds",
            description="Sampling of the last group",
            tag_keys=TAGS,
        )
        self._verifying = Gauge(
            "alphagrpo_rollout_verify_seconds",
            description="Verification of the last group",
            tag_keys=TAGS,
        )
        self._pulling = Gauge(
            "alphagrpo_rollout_pull_seconds", description="Last pull of weights", tag_keys=TAGS
        )
        self._version = Gauge(
            "alphagrpo_rollout_weights_version", description="Weights in use", tag_keys=TAGS
        )
        self._samples = Counter(
            "alphagrpo_rollout_samples", description="Samples with their scores", tag_keys=TAGS
        )
        self._invalid = Counter(
            "alphagrpo_rollout_invalid_samples",
            description="Samples whose score could not be had",
            tag_keys=TAGS,
        )

    def observe(self, result: RolloutResult, version: int) -> None:
        """Show one finished group."""
        self._drawing.set(result.timings.sample_s, tags=self._tags)
        self._verifying.set(result.timings.verify_s, tags=self._tags)
        if result.timings.pull_s > 0:
            self._pulling.set(result.timings.pull_s, tags=self._tags)
        self._version.set(version, tags=self._tags)
        self._samples.inc(len(result.samples), tags=self._tags)
        if invalid := sum(sample.reward is None for sample in result.samples):
            self._invalid.inc(invalid, tags=self._tags)
