"""Parts that actors make for themselves, and errors that cross processes as themselves."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from actors.parts import Part, actor_options, answer, said_at_start
from alphagrpo.errors import ConfigError, NoQuestions, UnfitDevice
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


def creation_failed(text: str) -> ActorDiedError:
    """What Ray gives callers of an actor whose ``__init__`` raised."""
    cause = RayTaskError("RolloutActor.__init__", text, None)
    return ActorDiedError(cause)


def test_what_an_actor_said_instead_of_starting_comes_back_as_itself() -> None:
    text = (
        "Traceback (most recent call last):\n"
        '  File "rollout.py", line 1, in __init__\n'
        "alphagrpo.errors.UnfitDevice: rollout-0 needs about 53.2 GB; raise rollout.slices"
    )
    found = said_at_start(creation_failed(text))
    assert type(found) is UnfitDevice
    assert str(found) == "rollout-0 needs about 53.2 GB; raise rollout.slices"


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        creation_failed("Traceback ...\nKeyError: 'a bug'"),
        creation_failed("alphagrpo.errors.annotations: nothing of ours"),
    ],
)
def test_of_other_deaths_nothing_was_said(error: ActorDiedError) -> None:
    assert said_at_start(error) is None
