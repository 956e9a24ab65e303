from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from alphagrpo.config import RunConfig, load_config, parse_config
from alphagrpo.errors import ConfigError
from tests.fakes import make_config

CONFIGS = sorted((Path(__file__).parents[3] / "deploy/configs").glob("*.yaml"))


def raw(**sections: Any) -> dict[str, Any]:
    values = make_config().model_dump(mode="json")
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return values


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_named_like_their_file(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_the_released_recipe_is_the_default_of_every_section() -> None:
    recipe = load_config(next(path for path in CONFIGS if path.stem == "bagel-7b-rt2i"))
    default = parse_config(
        {
            "name": "x",
            "model": {"path": "x"},
            "task": {"system_prompt": "x"},
            "data": {"train": "x", "heldout": "x"},
        }
    )
    for section in ("algorithm", "optimizer", "reward"):
        assert getattr(recipe, section) == getattr(default, section), section
    assert recipe.rollout.flow == default.rollout.flow
    assert recipe.rollout.text == default.rollout.text
    assert (recipe.rollout.group_size, recipe.rollout.prompts_per_step) == (14, 32)
    assert (recipe.model.lora.rank, recipe.model.lora.alpha) == (32, 64)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"rollout": {"group_size": 1}}, "rollout.group_size"),
        ({"rollout": {"gruop_size": 4}}, "rollout.gruop_size"),
        ({"optimiser": {"lr": 1}}, "optimiser"),
        ({"rollout": {"flow": {"num_points": 4}}}, r"inside the schedule's 3 steps"),
        (
            {"rollout": {"flow": {"num_points": 9, "window": {"length": 5, "allowed": [0, 4]}}}},
            "5 steps in .0, 4",
        ),
        ({"rollout": {"flow": {"guidance": {"interval": [1.0, 0.4]}}}}, "increasing"),
        ({"task": {"think": False}}, "format_bonus"),
        (
            {
                "task": {"think": False},
                "reward": {"format_bonus": 0},
                "algorithm": {"image": {"enabled": False}},
            },
            "nothing would train",
        ),
        ({"learner": {"gpus": 2.0}}, "learner.ranks to the number of devices"),
        ({"name": "no spaces here"}, "name"),
        ({"training": {"max_minutes": 0}}, "training.max_minutes"),
        ({"optimizer": {"decay_steps": 3}, "training": {"num_steps": 4}}, "decay_steps .* 3 and 4"),
        ({"model": {"dtype": "float16"}}, "model.dtype"),
    ],
)
def test_impossible_configs_are_refused_by_name(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config(raw(**sections))


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw(rollout={"group_size": 1, "typo": 1}, seed=-1))
    for name in ("rollout.group_size", "rollout.typo", "seed"):
        assert name in str(caught.value)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("- a\n- b\n", "mapping"),
        ("a: [", "YAML"),
        (b"name: caf\xe9\n", "YAML in UTF-8"),
        ("", "mapping"),
    ],
)
def test_files_that_are_no_config_are_refused(
    tmp_path: Path, content: str | bytes, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(write(tmp_path / "run.yaml", content))


def test_overrides_reach_into_sections_and_are_checked_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", yaml.safe_dump(raw()))
    found = load_config(path, ["rollout.flow.shift=5", "optimizer.betas=[0.8, 0.9]", "seed=7"])
    assert found.rollout.flow.shift == 5
    assert found.optimizer.betas == (0.8, 0.9)
    assert found.seed == 7
    assert found.rollout.flow.num_points == make_config().rollout.flow.num_points
    for bad in ("rollout.typo=1", "seed", "=3", "seed.deep=1"):
        with pytest.raises(ConfigError):
            load_config(path, [bad])


def test_a_config_survives_being_written_and_read(tmp_path: Path) -> None:
    config = make_config()
    path = write(tmp_path / "run.yaml", yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(path) == config
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("name", ["shapes-rt2i", "smoke"])
def test_the_miniature_reads_the_system_prompt_it_was_trained_on(name: str) -> None:
    from alphagrpo.shapes.language import SYSTEM_PROMPT

    config = load_config(next(path for path in CONFIGS if path.stem == name))
    assert config.task.system_prompt == SYSTEM_PROMPT
