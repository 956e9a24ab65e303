"""Environment variables inside configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphagrpo.config import load_config
from alphagrpo.config.variables import expand_variables
from alphagrpo.errors import ConfigError
from services.settings import GeneratorSettings, parse_settings

ROOT = Path(__file__).parents[3]


def test_names_stand_for_values_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE", "/shared")
    monkeypatch.delenv("ELSEWHERE", raising=False)
    raw = {
        "a": "${STORAGE}/x",
        "b": {"c": ["${ELSEWHERE:-/mnt}/y", 1]},
        "d": "{prompt} costs $5 ${lower}",
    }
    expected = {"a": "/shared/x", "b": {"c": ["/mnt/y", 1]}, "d": "{prompt} costs $5 ${lower}"}
    assert expand_variables(raw, "run.yaml") == expected


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named_with_its_key(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("STORAGE", raising=False)
    if value is not None:
        monkeypatch.setenv("STORAGE", value)
    with pytest.raises(ConfigError, match=r"model\.path in run\.yaml names .* STORAGE"):
        expand_variables({"model": {"path": "${STORAGE}/m"}}, "run.yaml")
    with pytest.raises(ConfigError, match=r"paths\[1\] in run\.yaml"):
        expand_variables({"paths": ["a", "${STORAGE}"]}, "run.yaml")


@pytest.mark.parametrize("name", ["bagel-7b-rt2i", "bagel-7b-srr"])
def test_one_variable_moves_everything_that_nodes_share(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("ALPHAGRPO_STORAGE", "/shared")
    config = load_config(ROOT / f"deploy/configs/{name}.yaml")
    paths = (
        config.output,
        config.model.path,
        config.services.question_store,
        Path(config.data.train),
        Path(config.data.heldout),
    )
    assert all(path is not None and path.is_relative_to("/shared") for path in paths)
    monkeypatch.delenv("ALPHAGRPO_STORAGE")
    assert load_config(ROOT / f"deploy/configs/{name}.yaml").output.is_absolute()


def test_the_args_of_a_service_name_variables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHAGRPO_STORAGE", "/shared")
    args = {"config": "c.yaml", "weights": "${ALPHAGRPO_STORAGE:-/mnt}/runs/r"}
    assert parse_settings(GeneratorSettings, args, "generator").weights == "/shared/runs/r"
