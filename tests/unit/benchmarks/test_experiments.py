"""Experiments: every run they would start is a valid one, and tables say what they know."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from alphagrpo.config import load_config
from alphagrpo.eval.paired import PairedDifference
from benchmarks import experiments, lag, learning, method, running
from benchmarks.claims import verdict
from benchmarks.running import Bench, Experiment, RunFailed, settings
from benchmarks.tables import median_range, spread

CONFIGS = Path(__file__).parents[3] / "deploy" / "configs"


def load(name: str, changes: dict[str, Any]) -> Any:
    return load_config(CONFIGS / name, [word for word in settings(changes) if word != "--set"])


@pytest.mark.parametrize("module", [method, learning, lag])
def test_every_training_and_evaluation_is_a_valid_config(module: ModuleType) -> None:
    runs = module.experiments(3, None)
    assert len({experiment.name for experiment in runs}) == len(runs)
    for experiment in runs:
        shared = {"name": experiment.name, "seed": experiment.seed}
        training = {**experiment.training, "training.num_steps": max(1, experiment.steps)}
        trained = load(experiment.config, {**experiment.changes, **training, **shared})
        judged = load(
            module.BENCH.evaluation_config,
            {**experiment.changes, **experiment.evaluation, **module.BENCH.evaluation, **shared},
        )
        assert judged.reward.program == "dvreward", "all rows have the same judge"
        assert trained.seed == judged.seed
        assert trained.task.think == judged.task.think or module is learning


def result(row: str, seed: int, all_right: float) -> dict[str, Any]:
    sort = {"all_right": all_right, "refined": {"round1": {"gated": {"all_right": 0.75}}}}
    return {"row": row, "seed": seed, "steps": 3, "evaluation": {"plain": sort}}


def test_the_table_has_means_with_spread_and_dashes_for_what_is_missing() -> None:
    page = method.table([result("rt2i", 1, 0.5), result("rt2i", 2, 0.6), result("base", 1, 0.4)])
    assert "| rt2i | 2 | 55.0 ± 7.1 | 75.0 ± 0.0 | - |" in page
    assert "| base | 1 | 40.0 | 75.0 | - |" in page
    assert page.index("| base |") < page.index("| rt2i |"), "in the order of the rows"


def test_gains_are_against_the_base_of_the_same_seed() -> None:
    page = learning.table(
        [result("base", 1, 0.5), result("base", 2, 0.4), result("rate-15e-5", 2, 0.5)]
    )
    assert "| rate-15e-5 | 2 | 3 | 50.0 | 10.0 | - |" in page


def test_gains_are_told_by_family_of_the_seeds_own_prompts() -> None:
    num = 12
    families = learning.families(1, num)
    assert sorted(place for places in families.values() for place in places) == list(range(num))
    family, places = next(iter(families.items()))
    lines = {"base": "0" * num, "rate-15e-5": "".join("01"[i in places] for i in range(num))}
    results = [
        result(row, 1, 0.5) | {"outcomes": {"plain": {"all_right": line}}}
        for row, line in lines.items()
    ]
    rows = learning.by_family(results).splitlines()[2:]
    assert f"| {family} | 0.0 | 100.0 |" in rows
    assert len(rows) == len(families)
    assert sum("| 0.0 | 0.0 |" in row for row in rows) == len(families) - 1


def test_one_seed_has_no_spread() -> None:
    assert spread([0.5]) == "50.0"
    assert spread([None, 0.5, 0.7]) == "60.0 ± 14.1"
    assert spread([None]) == "-"


def lagging(row: str, seed: int, reward: float) -> dict[str, Any]:
    curve = {"reward/mean": [0.1, *[reward] * lag.LAST], "image/clip_share": [0.0, 0.4, 0.5]}
    sort = {"dvreward": reward / 2, "all_right": 0.25}
    figures = {"evaluation": {"plain": sort, "thought": sort}, "training_s": 9.0, "curve": curve}
    return {"row": row, "seed": seed, "steps": 6, **figures}


def test_lag_is_compared_with_none_seed_by_seed() -> None:
    none = [lagging("lag-0", seed, reward) for seed, reward in ((1, 0.8), (2, 0.9), (3, 0.5))]
    page = lag.table([*none, lagging("lag-1-clip", 1, 0.7), lagging("lag-1-clip", 2, 0.84)])
    assert "| lag-0 | 3 | 0.800 (0.500 to 0.900) | - | 0.400 (0.250 to 0.450) | - | 25.0" in page
    differences = "| -0.080 (-0.100 to -0.060) | 0.385 (0.350 to 0.420) | -0.040 (-0.050 to -0.030)"
    assert differences in page
    assert "| lag-1-clip | - | 45.0 (45.0 to 45.0) | - |" in page, "the first step never lags"
    assert "1.50 (1.50 to 1.50) |" in page, "seconds per step"


def test_a_range_has_no_negative_zero_and_one_seed_none() -> None:
    assert median_range([-0.0001, None, 0.02, -0.3], sign="+") == "+0.000 (-0.300 to +0.020)"
    assert median_range([1.25], digits=1) == "1.2"
    assert median_range([None]) == "-"


def test_claims_are_differences_of_the_same_seed() -> None:
    page = method.table(
        [
            result("rt2i", 1, 0.6),
            result("rt2i", 2, 0.5),
            result("base", 1, 0.5),
            result("base", 3, 0.1),
        ]
    )
    assert "| RT2I training helps, plain | rt2i - base | 10.0 | - | 1 of 1 | points up |" in page
    semantic = "| quality questions help, thought | rt2i - rt2i-semantic | - | - | not run | - |"
    assert semantic in page


@pytest.mark.parametrize(
    ("seeds", "low", "high", "says"),
    [
        ([], None, None, "-"),
        ([0.1, 0.2], 0.05, 0.2, "points up"),
        ([-0.1, -0.2, -0.1], None, None, "points down"),
        ([0.1, -0.2], -0.1, 0.1, "undecided"),
        ([0.1, 0.2, 0.1], 0.05, 0.2, "holds"),
        ([0.1, 0.2, 0.1], -0.05, 0.2, "not shown"),
        ([0.1, 0.2, -0.1], 0.01, 0.2, "not shown"),
        ([-0.1, -0.2, -0.1], -0.2, -0.05, "the opposite"),
    ],
)
def test_what_a_claim_needs_to_hold(seeds, low, high, says):
    known = low is not None
    over_prompts = PairedDifference(mean=0.0, low=low, high=high, n=9) if known else None
    assert verdict(seeds, over_prompts) == says


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A benchmark in a temporary folder, without a cluster."""
    monkeypatch.setattr(running, "RESULTS", tmp_path)
    monkeypatch.setattr(experiments, "cluster", lambda: nullcontext("somewhere:1"))
    return Bench(name="some", evaluation={})


def some(*rows: str) -> list[Experiment]:
    return [Experiment(row=row, seed=1, config="shapes-rt2i.yaml") for row in rows]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_fails_leaves_the_others_alone_and_is_tried_again(bench, monkeypatch, jobs):
    tried, broken = [], {"b"}

    def fake_run(_bench, experiment, address, *, apart):
        tried.append(experiment.row)
        if experiment.row in broken:
            raise RunFailed("it did not")
        return {"row": experiment.row, "seed": 1, "address": address, "apart": apart}

    monkeypatch.setattr(experiments, "run_one", fake_run)
    assert not experiments.run_all(bench, some("a", "b", "c"), jobs=jobs)
    assert sorted(tried) == ["a", "b", "c"]
    assert [r["row"] for r in experiments.load_results(bench)] == ["a", "c"]
    broken.clear()
    assert experiments.run_all(bench, some("a", "b", "c"), jobs=jobs)
    assert sorted(tried) == ["a", "b", "b", "c"], "what has a result is not run again"


def test_no_run_begins_when_the_minutes_are_over(bench, monkeypatch):
    monkeypatch.setattr(experiments, "run_one", lambda *_, **__: pytest.fail("it began"))
    assert not experiments.run_all(bench, some("a"), minutes=0)


def test_a_failing_command_names_itself_and_its_log(tmp_path):
    log = tmp_path / "logs" / "a.log"
    with pytest.raises(RunFailed, match=r"train nowhere.yaml failed with 2; see .*a\.log"):
        running.alphagrpo(["train", "nowhere.yaml"], "somewhere:1", log=log)
    assert "nowhere.yaml does not exist" in log.read_text()
