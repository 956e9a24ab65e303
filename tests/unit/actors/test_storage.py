"""The storage probe over stand-ins for actors: who sees what, and what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors import storage
from actors.storage import QUESTION, answer_probe, check_storage, config_for_actors
from alphagrpo.errors import EnvironmentProblem
from tests.fakes import make_config


def fake_actor(see: Callable[[str], str] = str) -> Any:
    """An actor that finds another folder under the name of one: ``see`` says which."""

    async def probe(folder: str, role: str) -> str:
        return await asyncio.to_thread(answer_probe, see(folder), role)

    return SimpleNamespace(probe=SimpleNamespace(remote=probe))


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE_S", 0.2)
    monkeypatch.setattr(storage, "POLL_S", 0.05)


async def test_one_folder_for_all_passes_and_leaves_nothing(tmp_path: Path) -> None:
    await check_storage(tmp_path / "runs", {"learner": fake_actor(), "rollout-0": fake_actor()})
    assert names_in(tmp_path / "runs") == []


async def test_a_node_without_the_folder_is_named(tmp_path: Path) -> None:
    away = fake_actor(lambda folder: str(tmp_path / "not mounted"))
    with pytest.raises(EnvironmentProblem, match=r"learner on .*No such file.*every node mounts"):
        await check_storage(tmp_path, {"learner": away, "rollout-0": fake_actor()})
    assert names_in(tmp_path) == []


async def test_another_folder_of_the_same_name_is_found_by_what_is_not_in_it(
    tmp_path: Path,
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    (there / QUESTION).write_text("of another run")
    with pytest.raises(EnvironmentProblem, match="learner: what it wrote there is not here"):
        await check_storage(here, {"learner": fake_actor(lambda folder: str(there))})


async def test_old_words_are_not_taken_for_an_answer(tmp_path: Path) -> None:
    """A copy that an earlier start left behind."""
    (tmp_path / (storage.ANSWER + "learner")).write_text("an earlier word")

    async def silent(folder: str, role: str) -> str:
        return ""

    actor = SimpleNamespace(probe=SimpleNamespace(remote=silent))
    with pytest.raises(EnvironmentProblem, match="learner: what it wrote there is not here"):
        await check_storage(tmp_path, {"learner": actor})


@pytest.mark.parametrize("in_job", [False, True])
def test_an_actor_finds_a_model_that_lies_beside_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_job: bool
) -> None:
    context = SimpleNamespace(runtime_env={"working_dir": "gcs://_ray_pkg_1.zip"} if in_job else {})
    monkeypatch.setattr(storage.ray, "get_runtime_context", lambda: context)
    monkeypatch.chdir(tmp_path)
    config = make_config(model={"path": "models/mine"})
    assert config_for_actors(config) == config, "what is not here may be there"
    (tmp_path / "models/mine").mkdir(parents=True)
    found = config_for_actors(config).model.path
    assert found == (Path("models/mine") if in_job else tmp_path / "models/mine")
    elsewhere = make_config(model={"path": "/shared/models/mine"})
    assert config_for_actors(elsewhere).model.path == Path("/shared/models/mine")
