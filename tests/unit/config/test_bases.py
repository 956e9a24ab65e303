"""One run config extends another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from alphagrpo.config import RunConfig, load_config
from alphagrpo.errors import ConfigError
from alphagrpo.record.folder import RunFolder
from tests.fakes import make_config

CONFIGS = Path(__file__).parents[3] / "deploy/configs"


def write(folder: Path, **files: Any) -> Path:
    """YAML files by stem; returns the last one's path."""
    for stem, content in files.items():
        path = folder / f"{stem}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path, base=make_config().model_dump(mode="json"))


def test_sections_are_merged_key_by_key_and_lists_are_replaced(base: Path) -> None:
    flow = {"shift": 5.0, "window": {"allowed": [1, 5]}}
    path = write(base.parent, own={"base": "base.yaml", "name": "own", "rollout": {"flow": flow}})
    config, before = load_config(path), load_config(base)
    assert (config.name, config.rollout.flow.shift) == ("own", 5.0)
    assert config.rollout.flow.window.allowed == (1, 5)
    assert config.rollout.flow.window.length == before.rollout.flow.window.length
    assert config.rollout.group_size == before.rollout.group_size
    restored = config.model_copy(update={"name": before.name, "rollout": before.rollout})
    assert restored == before


def test_a_chain_and_a_list_of_bases_the_later_wins_and_the_file_over_all(base: Path) -> None:
    path = write(
        base.parent,
        first={"base": "base.yaml", "seed": 1, "rollout": {"group_size": 6, "threads": 2}},
        second={"seed": 2, "rollout": {"group_size": 8}},
        own={"base": ["first.yaml", "second.yaml"], "rollout": {"prompts_per_step": 5}},
    )
    rollout = load_config(path).rollout
    assert (rollout.group_size, rollout.threads, rollout.prompts_per_step) == (8, 2, 5)
    assert load_config(path).seed == 2


def test_null_takes_a_setting_back_and_overrides_come_last(base: Path) -> None:
    path = write(
        base.parent,
        first={"base": "base.yaml", "evaluation": {"every": 3}, "seed": 5},
        own={"base": "first.yaml", "evaluation": {"every": None}, "seed": 6},
    )
    assert load_config(base.parent / "first.yaml").evaluation.every == 3
    assert load_config(path).evaluation.every is None
    assert load_config(path, ["seed=7"]).seed == 7


def test_a_path_is_relative_to_the_file_that_names_it(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = base.parent / "inner"
    inner.mkdir()
    write(inner, near={"base": "../base.yaml", "seed": 3})
    path = write(base.parent, own={"base": "inner/near.yaml"})
    monkeypatch.chdir(inner)
    assert load_config(path).seed == 3
    assert load_config(Path("near.yaml")).seed == 3


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a", "b", "c")])
def test_a_circle_is_refused_with_the_way_round(tmp_path: Path, names: tuple[str, ...]) -> None:
    successors = (*names[1:], names[0])
    for name, after in zip(names, successors, strict=True):
        write(tmp_path, **{name: {"base": f"{after}.yaml"}})
    with pytest.raises(ConfigError, match=r"cannot extend itself.*remove one base") as caught:
        load_config(tmp_path / "a.yaml")
    assert all(f"{name}.yaml" in str(caught.value) for name in names)


def test_two_bases_may_share_one(base: Path) -> None:
    path = write(
        base.parent,
        left={"base": "base.yaml", "seed": 1},
        right={"base": "base.yaml", "output": "elsewhere"},
        own={"base": ["left.yaml", "right.yaml"]},
    )
    config = load_config(path)
    assert (config.seed, config.output) == (make_config().seed, Path("elsewhere"))


@pytest.mark.parametrize("value", [None, 3, [""], ["base.yaml", 1], {"path": "base.yaml"}])
def test_a_base_that_is_no_path_is_refused(base: Path, value: object) -> None:
    path = write(base.parent, own={"base": value})
    with pytest.raises(ConfigError, match=r"base is the path.*own\.yaml has .*base: shapes"):
        load_config(path)


def test_a_missing_base_names_the_file_that_asks_for_it(base: Path) -> None:
    path = write(base.parent, first={"base": "no.yaml"}, own={"base": "first.yaml"})
    with pytest.raises(ConfigError, match=r"no\.yaml does not exist.*base in .*first\.yaml"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"gone\.yaml does not exist.*check the path"):
        load_config(base.parent / "gone.yaml")


def test_a_mistake_in_the_merged_config_is_named(base: Path) -> None:
    path = write(base.parent, own={"base": "base.yaml", "rollout": {"gruop_size": 3}})
    with pytest.raises(ConfigError, match=r"own\.yaml is not a valid.*\n.*rollout\.gruop_size"):
        load_config(path)
    path = write(base.parent, own={"base": "base.yaml", "rollout": 3})
    with pytest.raises(ConfigError, match="rollout: Input should be"):
        load_config(path)


def test_the_run_folder_holds_the_resolved_config_without_a_base(base: Path) -> None:
    path = write(base.parent, own={"base": "base.yaml", "output": str(base.parent / "runs")})
    config = load_config(path)
    written = RunFolder.create(config).path / "config.yaml"
    raw = yaml.safe_load(written.read_text(encoding="utf-8"))
    assert "base" not in raw
    assert load_config(written).model_copy(update={"versions": {}}) == config


def differences(config: RunConfig, base: RunConfig) -> dict[str, Any]:
    """Dotted keys whose values differ, with the first config's values."""

    def walk(own: Any, other: Any, name: str) -> dict[str, Any]:
        if isinstance(own, dict) and isinstance(other, dict):
            keys = own.keys() | other.keys()
            pairs = (walk(own.get(k), other.get(k), f"{name}.{k}".lstrip(".")) for k in keys)
            return {key: value for pair in pairs for key, value in pair.items()}
        return {} if own == other else {name: own}

    return walk(config.model_dump(mode="json"), base.model_dump(mode="json"), "")


def shipped(name: str) -> RunConfig:
    return load_config(CONFIGS / name)


def test_the_released_refinement_differs_from_text_to_image_in_what_it_says() -> None:
    found = differences(shipped("bagel-7b-srr.yaml"), shipped("bagel-7b-rt2i.yaml"))
    refinement = found.pop("refinement")
    assert found.pop("evaluation.refinement_guidance")["interval"] == [0.4, 1.0]
    assert found == {"name": "bagel-7b-srr", "task.kind": "srr", "evaluation.rounds": 1}
    assert refinement["rectification"] == "max"
    assert (refinement["text_weight"], refinement["format_bonus"]) == (0.2, 0.0)
    assert (refinement["drafts"]["num"], refinement["drafts"]["trained"]) == (7, False)
    assert refinement["flow"]["window"] == {"length": 5, "allowed": [0, 15]}
    assert refinement["flow"]["guidance"]["renorm"] == "text_channel"


def test_the_miniature_refinement_differs_from_the_demo_in_what_it_says() -> None:
    found = differences(shipped("shapes-srr.yaml"), shipped("shapes-rt2i.yaml"))
    assert found.pop("refinement")["flow"] == {
        "num_points": 10, "shift": 4.0, "noise_level": 0.7, "start_noise": "group",
        "window": {"length": 3, "allowed": [0, 5]},
        "guidance": {
            "text_scale": 2.0, "image_scale": 1.0, "interval": [0.0, 1.0], "renorm": "none",
            "renorm_min": 0.0,
        },
    }  # fmt: skip
    assert found == {
        "name": "shapes-srr", "task.kind": "srr", "task.max_think_tokens": 40,
        "data.thought_share": 0.5, "training.max_minutes": 12.0, "evaluation.rounds": 1,
        "evaluation.every": None, "evaluation.num_probe": 32,
    }  # fmt: skip


def test_the_smoke_run_differs_from_the_demo_in_what_it_says() -> None:
    assert differences(shipped("smoke.yaml"), shipped("shapes-rt2i.yaml")) == {
        "name": "smoke", "data.num_train": 64, "data.thought_share": 0.5,
        "rollout.group_size": 4, "rollout.prompts_per_step": 4, "rollout.num_runners": 1,
        "rollout.cpus_per_runner": 0.5, "rollout.flow.num_points": 12,
        "rollout.flow.window.length": 4, "rollout.flow.window.allowed": [0, 6],
        "optimizer.lr": 6e-5, "optimizer.warmup_steps": 5,
        "training.num_steps": 3, "training.max_minutes": 5.0, "training.checkpoint_every": 2,
        "training.report_every": 1, "training.report_groups_every": 1,
        "evaluation.num_plain": 8, "evaluation.num_thought": 8, "evaluation.batch_size": 8,
        "evaluation.every": 2, "evaluation.num_probe": 4,
        "evaluation.text.temperature": 0.0,
    }  # fmt: skip
