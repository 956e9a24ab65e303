"""Parts that actors make for themselves, and errors that cross processes as themselves."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import RayTaskError

from actors.parts import Part, actor_options, answer
from alphagrpo.errors import ConfigError, NoQuestions
from tests.fakes import FakeVerifier, make_config


def test_a_part_is_made_from_its_path_and_arguments_and_travels_as_json() -> None:
    part = Part("tests.fakes:make_fake_verifier", {"delay_s": 0.5})
    again = Part.from_json(part.to_json())
    assert again == part
    verifier = again.make()
    assert isinstance(verifier, FakeVerifier)
    assert verifier.delay_s == 0.5
    assert Part("tests.fakes:make_fake_verifier").make() is not verifier


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no.such.module:connect", r"importable module:function.*No module named 'no'"),
        ("tests.fakes:no_such_function", r"importable module:function.*no_such_function"),
        ("tests.fakes", "must read module:function, got 'tests.fakes'"),
        ("tests.fakes:hashlib", "must read module:function"),
    ],
)
def test_a_part_that_cannot_be_made_is_refused_by_its_path(path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Part(path).make()


def test_an_actor_has_its_name_resources_and_threads() -> None:
    config = make_config(name="demo", rollout={"threads": 3})
    options = actor_options(
        config, "rollout-2", cpus=1.5, gpus=0.25, selector={"mesh.pool": "rollout"}
    )
    assert options["name"] == "alphagrpo:demo:rollout-2"
    assert (options["num_cpus"], options["num_gpus"]) == (1.5, 0.25)
    assert options["label_selector"] == {"mesh.pool": "rollout"}
    variables = options["runtime_env"]["env_vars"]
    assert variables == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}


def _failed(cause: Exception) -> Any:
    async def call() -> None:
        raise RayTaskError("roll_out", "the trace", cause)

    return call()


async def test_errors_of_the_project_come_back_as_themselves_and_others_wrapped() -> None:
    cause = NoQuestions("nothing to ask; reword it")
    with pytest.raises(NoQuestions) as caught:
        await answer(_failed(cause))
    assert caught.value is cause
    with pytest.raises(RayTaskError):
        await answer(_failed(KeyError("a bug")))
