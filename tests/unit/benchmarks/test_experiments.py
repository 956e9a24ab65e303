"""Experiments: every run they would start is a valid one, and tables say what they know."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from alphagrpo.config import load_config
from benchmarks import learning, method
from benchmarks.experiments import settings
from benchmarks.tables import spread

CONFIGS = Path(__file__).parents[3] / "deploy" / "configs"


def load(name: str, changes: dict[str, Any]) -> Any:
    return load_config(CONFIGS / name, [word for word in settings(changes) if word != "--set"])


@pytest.mark.parametrize("module", [method, learning])
def test_every_training_and_evaluation_is_a_valid_config(module: ModuleType) -> None:
    experiments = module.experiments(3, None)
    assert len({experiment.name for experiment in experiments}) == len(experiments)
    for experiment in experiments:
        shared = {"name": experiment.name, "seed": experiment.seed}
        trained = load(experiment.config, {**experiment.changes, **experiment.training, **shared})
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
        [result("base", 1, 0.5), result("base", 2, 0.4), result("demo-settings", 2, 0.5)]
    )
    assert "| demo-settings | 2 | 3 | 50.0 | 10.0 |" in page


def test_one_seed_has_no_spread() -> None:
    assert spread([0.5]) == "50.0"
    assert spread([None, 0.5, 0.7]) == "60.0 ± 14.1"
    assert spread([None]) == "-"
