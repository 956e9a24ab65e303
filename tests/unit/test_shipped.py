"""Paths under ``deploy/``: what lies where one works comes first, then what is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphagrpo import shipped
from alphagrpo.config import load_config
from alphagrpo.errors import ConfigError
from alphagrpo.shipped import checkout, locate, shipped_folder

ROOT = Path(__file__).parents[2]
CONFIG = "deploy/configs/shapes-rt2i.yaml"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as a wheel lays it, with one shipped config, and an empty folder to work in."""
    package = tmp_path / "site-packages" / "alphagrpo"
    config = package / CONFIG
    config.parent.mkdir(parents=True)
    config.write_text((ROOT / CONFIG).read_text())
    monkeypatch.setattr(shipped, "_PACKAGE", package)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return package


def test_a_checkout_ships_its_own_folder() -> None:
    assert checkout() == ROOT
    assert shipped_folder() == ROOT / "deploy"


def test_a_wheel_ships_the_folder_inside_the_package(installed: Path) -> None:
    assert checkout() is None
    assert shipped_folder() == installed / "deploy"


def test_the_shipped_file_is_found_from_anywhere(installed: Path) -> None:
    assert locate(CONFIG) == installed / CONFIG
    assert load_config(CONFIG).name == "shapes-rt2i"


def test_what_lies_in_the_folder_comes_first(installed: Path, tmp_path: Path) -> None:
    own = tmp_path / "elsewhere" / CONFIG
    own.parent.mkdir(parents=True)
    own.touch()
    assert locate(CONFIG, tmp_path / "elsewhere") == own
    assert locate(CONFIG, tmp_path) == installed / CONFIG


@pytest.mark.parametrize("path", ["deploy/configs/typo.yaml", "configs/shapes-rt2i.yaml", "runs/a"])
def test_any_other_path_stays_as_it_is(installed: Path, path: str) -> None:
    (installed / "configs").mkdir()
    (installed / "configs/shapes-rt2i.yaml").touch()
    assert locate(path) == Path(path)


def test_an_absolute_path_is_never_looked_for_elsewhere(installed: Path) -> None:
    assert locate("/deploy/configs/shapes-rt2i.yaml") == Path("/deploy/configs/shapes-rt2i.yaml")


def test_a_config_of_ones_own_extends_a_shipped_one(installed: Path) -> None:
    Path("mine").mkdir()
    Path("mine/run.yaml").write_text(f"base: {CONFIG}\nname: mine\n")
    config = load_config("mine/run.yaml")
    assert config.name == "mine"
    assert config.model.path == Path("deploy/models/policy"), "the record stays portable"


def test_a_base_that_is_nowhere_is_named(installed: Path) -> None:
    Path("run.yaml").write_text("base: deploy/configs/typo.yaml\nname: mine\n")
    with pytest.raises(ConfigError, match=r"deploy/configs/typo\.yaml does not exist"):
        load_config("run.yaml")


def test_the_model_is_looked_for_on_the_machine_that_asks(installed: Path) -> None:
    model = load_config(CONFIG).model
    assert model.folder == Path("deploy/models/policy")
    (installed / "deploy/models/policy").mkdir(parents=True)
    assert model.folder == installed / "deploy/models/policy"
    Path("deploy/models/policy").mkdir(parents=True)
    assert model.folder == Path("deploy/models/policy")
