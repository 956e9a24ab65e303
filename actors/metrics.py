"""Ray metrics of a run: ``alphagrpo_<area>_<name>_<unit>``, tagged with run and role only.

`docs/metrics.md` lists them. Ray prefixes every name with ``ray_`` and ends a counter in
``_total``; a gauge's name ends in nothing that Prometheus reserves (``_total``, ``_count``,
``_sum``, ``_bucket``, ``_info``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge

from alphagrpo.lasting_metrics import GaugeKeeper, start_at_zero

if TYPE_CHECKING:
    from alphagrpo.rollout.runner import RolloutResult

TAGS = ("run", "role")

STEP_GAUGES: Mapping[str, tuple[str, str]] = {
    "reward/mean": ("alphagrpo_reward_mean_value", "Mean reward of the step, bonus included"),
    "reward/std": ("alphagrpo_reward_std_value", "Spread of the step's rewards"),
    "reward/score": ("alphagrpo_reward_score_value", "Mean score of the reward program"),
    "samples/valid_share": ("alphagrpo_samples_valid_ratio", "Share of samples with a score"),
    "samples/per_second": ("alphagrpo_samples_rate_per_second", "Samples per second of wall time"),
    "refine/draft_score": ("alphagrpo_refine_draft_score_value", "Mean score of refined drafts"),
    "refine/gain": ("alphagrpo_refine_gain_value", "Mean score of refinements over their draft's"),
    "refine/improved_share": ("alphagrpo_refine_improved_ratio", "Refinements above their draft"),
    "refine/harmed_share": ("alphagrpo_refine_harmed_ratio", "Refinements below their draft"),
    "groups/dropped": ("alphagrpo_groups_dropped", "Groups of the step that were dropped"),
    "advantage/abs_mean": ("alphagrpo_advantage_abs_mean_value", "Mean |advantage|"),
    "text/clip_share": ("alphagrpo_text_clip_ratio", "Share of text terms the clip removes"),
    "image/clip_share": ("alphagrpo_image_clip_ratio", "Share of image terms the clip removes"),
    "text/max_abs_log_ratio": ("alphagrpo_text_log_ratio_max", "Largest |log ratio| of text"),
    "image/max_abs_log_ratio": ("alphagrpo_image_log_ratio_max", "Largest |log ratio| of images"),
    "text/entropy": ("alphagrpo_text_entropy_nats", "Entropy per sampled token"),
    "learner/grad_norm": ("alphagrpo_learner_grad_norm_value", "Gradient norm before clipping"),
    "learner/step": ("alphagrpo_learner_steps", "Optimizer steps so far"),
    "learner/lag": ("alphagrpo_learner_lag_versions", "Versions the step's groups were behind"),
    "busy/draw": ("alphagrpo_busy_draw_ratio", "Share of the runners' time spent drawing"),
    "busy/learn": ("alphagrpo_busy_learn_ratio", "Share of the ranks' time spent learning"),
    "time/step_s": ("alphagrpo_time_step_seconds", "T: wall time of the step"),
    "time/bound_s": ("alphagrpo_time_bound_seconds", "T*: the step's longest stage"),
    "time/efficiency": ("alphagrpo_time_efficiency_ratio", "T* / T of the step"),
    "time/rollout_s": ("alphagrpo_time_rollout_seconds", "Waited for the last group to be sampled"),
    "time/verify_wait_s": (
        "alphagrpo_time_verify_wait_seconds",
        "Waited for verdicts, all sampled",
    ),
    "time/learn_s": ("alphagrpo_time_learn_seconds", "Waited for the learner, all scored"),
    "time/sync_s": ("alphagrpo_time_sync_seconds", "Waited for weights to move"),
    "watch/canary_accuracy": ("alphagrpo_watch_canary_accuracy_ratio", "Canary answers right"),
    "watch/canary_drift": ("alphagrpo_watch_canary_drift_value", "Canary against the first time"),
    "watch/heldout_score": ("alphagrpo_watch_heldout_score_value", "Score by a second verifier"),
    "watch/alarm_drift": ("alphagrpo_watch_drift_alarm", "1 while the judge drifts"),
    "watch/alarm_divergence": (
        "alphagrpo_watch_divergence_alarm",
        "1 while the reward rises and a held-out judge falls",
    ),
    "watch/alarm_constant": ("alphagrpo_watch_constant_alarm", "1 while pictures are nearly one"),
    "watch/alarm_repeat": ("alphagrpo_watch_repeat_alarm", "1 while pictures repeat over prompts"),
}
"""Metric of a step to the gauge that shows it and its description."""


class StepGauges:
    """The driver's view: the last step's figures, shown until :meth:`close`."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run, "role": "driver"}
        self._keeper = GaugeKeeper()
        self._gauges = {
            key: Gauge(name, description=text, tag_keys=TAGS)
            for key, (name, text) in STEP_GAUGES.items()
        }

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Show what a step's metrics say; figures it lacks keep their last value."""
        for key, gauge in self._gauges.items():
            if key in metrics:
                self._keeper.set(gauge, metrics[key], self._tags)

    def close(self) -> None:
        """The run is over: its figures leave the exporter."""
        self._keeper.close()


class RunnerGauges:
    """A runner's view of its own work, shown as long as its process lives."""

    def __init__(self, run: str, role: str) -> None:
        self._tags = {"run": run, "role": role}
        self._keeper = GaugeKeeper()
        self._drawing = _gauge("draw_seconds", "Sampling of the last group")
        self._verifying = _gauge("verify_seconds", "Verification of the last group")
        self._pulling = _gauge("pull_seconds", "Last pull of weights")
        self._version = _gauge("weights_version", "Weights in use")
        self._samples = _counter("samples", "Samples with or without a score")
        self._invalid = _counter("invalid_samples", "Samples whose score could not be had")
        for counter in (self._samples, self._invalid):
            start_at_zero(counter, self._tags)

    def observe(self, result: RolloutResult, version: int) -> None:
        """Show one finished group."""
        self._keeper.set(self._drawing, result.timings.sample_s, self._tags)
        self._keeper.set(self._verifying, result.timings.verify_s, self._tags)
        if result.timings.pull_s > 0:
            self._keeper.set(self._pulling, result.timings.pull_s, self._tags)
        self._keeper.set(self._version, version, self._tags)
        self._samples.inc(len(result.samples), tags=self._tags)
        if invalid := sum(sample.reward is None for sample in result.samples):
            self._invalid.inc(invalid, tags=self._tags)


def _gauge(name: str, text: str) -> Gauge:
    return Gauge(f"alphagrpo_rollout_{name}", description=text, tag_keys=TAGS)


def _counter(name: str, text: str) -> Counter:
    return Counter(f"alphagrpo_rollout_{name}", description=text, tag_keys=TAGS)
