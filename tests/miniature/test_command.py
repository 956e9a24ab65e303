"""``python -m miniature``: options reach what they are for, mistakes are one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from miniature import decomposer
from miniature.__main__ import main
from miniature.policy import pretrain
from miniature.verifier import evaluate
from miniature.verifier import pretrain as verifier


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def recorder(into: dict[str, Any], result: Any = None):
    def record(*arguments: Any, **options: Any) -> Any:
        into.update(options, arguments=arguments)
        return result

    return record


def test_the_options_of_a_policy_reach_its_training(monkeypatch, tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(pretrain, "pretrain_policy", recorder(options))
    command = ["pretrain", "policy", "--output", str(tmp_path), "--steps", "7", "--minutes", "3"]
    command += ["--start", "before", "--no-copies", "--seed", "5", "--threads", "1", "--resume"]
    assert main(command) == 0
    assert torch.get_num_threads() == 1
    assert callable(options.pop("progress"))
    assert options == {
        "arguments": (tmp_path,),
        "steps": 7,
        "minutes": 3.0,
        "start": Path("before"),
        "copies": False,
        "seed": 5,
        "resume": True,
    }


@pytest.mark.parametrize(
    ("model", "module", "function"),
    [
        ("decomposer", decomposer, "pretrain_decomposer"),
        ("verifier", verifier, "pretrain_verifier"),
    ],
)
def test_each_judge_is_trained_into_its_own_folder(monkeypatch, model, module, function) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(module, function, recorder(options))
    assert main(["pretrain", model, "--threads", "1"]) == 0
    assert options["arguments"] == (Path("deploy/models") / model,)
    assert (options["steps"], options["minutes"], options["resume"]) == (None, None, False)


def test_a_verifier_is_measured_on_the_pictures_of_the_call(monkeypatch, capsys) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(evaluate, "evaluate_verifier", recorder(options, {"overall": 0.5}))
    command = ["evaluate", "verifier", "--policy", "p", "--pictures", "q", "--num", "3", "--json"]
    assert main(command) == 0
    assert options == {
        "arguments": (Path("deploy/models/verifier"),),
        "n": 3,
        "seed": 0,
        "policy": Path("p"),
        "pictures": Path("q"),
    }
    assert '"overall": 0.5' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["evaluate", "policy", "--pictures", "q"], "are for a verifier, got policy"),
        (["evaluate", "decomposer", "--skills"], "are the policy's, got decomposer"),
        (["pretrain", "verifier", "--threads", "0"], "1 or more, got 0"),
    ],
)
def test_options_of_another_model_are_refused_in_one_line(capsys, command, says) -> None:
    assert main(command) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_without_transformers_the_remedy_is_named(monkeypatch, capsys) -> None:
    monkeypatch.delitem(sys.modules, "miniature.decomposer")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["evaluate", "decomposer"]) == 2
    assert "'.[miniature]'" in capsys.readouterr().err
