"""What the gauges show of a step and of a finished group."""

from __future__ import annotations

from typing import Any

import pytest

from actors import metrics
from actors.metrics import STEP_GAUGES, RunnerGauges, StepGauges
from alphagrpo.ports import Sample, Timings
from alphagrpo.rollout.runner import RolloutResult
from alphagrpo.types import Group
from tests.fakes import make_config, make_job, make_prompts

Shown = dict[str, Any]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Value and tags by name, of gauges and counters that tell nobody."""
    values: Shown = {}

    class FakeMetric:
        def __init__(self, name: str, *, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description
            assert tag_keys == metrics.TAGS
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            values[self.name] = (value, tags)

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert value > 0, "Ray refuses to count nothing"
            self._record(value, tags)

        def _record(self, value: float, tags: dict[str, str]) -> None:
            values[self.name] = (values.get(self.name, (0,))[0] + value, tags)

    monkeypatch.setattr(metrics, "Gauge", FakeMetric)
    monkeypatch.setattr(metrics, "Counter", FakeMetric)
    return values


def test_a_step_shows_the_figures_it_has_and_leaves_the_others(shown: Shown) -> None:
    gauges = StepGauges("demo")
    gauges.observe({"reward/mean": 0.5, "time/learn_s": 3.0, "unknown/figure": 1.0})
    gauges.observe({"reward/mean": 0.7})
    gauges.close()
    tags = {"run": "demo", "role": "driver"}
    assert shown == {
        "alphagrpo_reward_mean_value": (0.7, tags),
        "alphagrpo_time_learn_seconds": (3.0, tags),
    }


def test_every_figure_has_a_gauge_of_its_own(shown: Shown) -> None:
    gauges = StepGauges("demo")
    gauges.observe({key: float(number) for number, key in enumerate(STEP_GAUGES)})
    expected = {name: float(number) for number, (name, _) in enumerate(STEP_GAUGES.values())}
    assert {name: value for name, (value, _) in shown.items()} == expected
    assert len(expected) == len(STEP_GAUGES)


def finished(rewards: list[float | None], **seconds: float) -> RolloutResult:
    return RolloutResult(
        group=Group(job=make_job(make_prompts(1)[0], make_config()), trajectories=()),
        samples=tuple(Sample(id="s", thought="", score=None, reward=r) for r in rewards),
        timings=Timings(**seconds),
    )


def test_a_runner_shows_its_last_group_and_counts_all_samples(shown: Shown) -> None:
    gauges = RunnerGauges("demo", "rollout-1")
    gauges.observe(finished([0.1, None, 0.3], sample_s=2.0, verify_s=1.0, pull_s=0.5), 4)
    gauges.observe(finished([0.1, 0.2], sample_s=3.0, verify_s=1.5), 5)
    values = {name: value for name, (value, _) in shown.items()}
    assert values == {
        "alphagrpo_rollout_draw_seconds": 3.0,
        "alphagrpo_rollout_verify_seconds": 1.5,
        "alphagrpo_rollout_pull_seconds": 0.5,
        "alphagrpo_rollout_weights_version": 5,
        "alphagrpo_rollout_samples": 5,
        "alphagrpo_rollout_invalid_samples": 1,
    }
    assert {tuple(tags.items()) for _, tags in shown.values()} == {
        (("run", "demo"), ("role", "rollout-1"))
    }


def test_a_runners_counters_are_there_before_its_first_group(shown: Shown) -> None:
    RunnerGauges("demo", "rollout-1")
    assert {name: value for name, (value, _) in shown.items()} == {
        "alphagrpo_rollout_samples": 0,
        "alphagrpo_rollout_invalid_samples": 0,
    }


def test_a_step_is_shown_again_until_the_run_ends(shown: Shown) -> None:
    gauges = StepGauges("demo")
    gauges.observe({"reward/mean": 0.5})
    shown.clear()
    gauges._keeper.refresh()
    assert shown == {"alphagrpo_reward_mean_value": (0.5, {"run": "demo", "role": "driver"})}
    gauges.close()


def test_no_name_ends_in_what_prometheus_reserves() -> None:
    reserved = ("_total", "_count", "_sum", "_bucket", "_info", "_created")
    assert not [name for name, _ in STEP_GAUGES.values() if name.endswith(reserved)]
