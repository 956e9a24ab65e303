"""One list of patience: its defaults stand in one place, and everybody takes them from there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from alphagrpo.config import load_config
from alphagrpo.config.services import Patience, ServiceConfig
from alphagrpo.errors import ConfigError
from services.client import connect_decomposer, connect_verifier
from services.generator.client import connect_generator
from services.retry import CallPolicy
from services.settings import GatewaySettings, parse_settings

ROOT = Path(__file__).parents[3]
NAMES = set(Patience.model_fields)


def defaults_in(path: Path) -> Iterator[str]:
    """``class-or-function.name`` wherever a file gives one of the names a value of its own."""
    for owner in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(owner, ast.ClassDef):
            for node in owner.body:
                if isinstance(node, ast.AnnAssign) and node.value is not None:
                    if isinstance(node.target, ast.Name) and node.target.id in NAMES:
                        yield f"{owner.name}.{node.target.id}"
        elif isinstance(owner, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = owner.args
            named = [*arguments.posonlyargs, *arguments.args]
            pairs = list(zip(reversed(named), reversed(arguments.defaults), strict=False))
            pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            for argument, default in pairs:
                number = isinstance(default, ast.Constant) and default.value is not None
                if argument.arg in NAMES and number:
                    yield f"{owner.name}.{argument.arg}"


def test_the_defaults_stand_in_one_place() -> None:
    owners = {
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("services", "actors", "alphagrpo/config", "alphagrpo/cli")
        for path in (ROOT / folder).rglob("*.py")
        for name in defaults_in(path)
    }
    assert owners == {
        *(f"alphagrpo/config/services.py: Patience.{name}" for name in NAMES),
        *(f"services/settings.py: GatewaySettings.{name}" for name in NAMES),
        # Others of the same name: one caller's share, a whole request, a start, a step.
        "services/settings.py: CallerSettings.max_concurrency",
        "services/settings.py: GeneratorSettings.deadline_s",
        "alphagrpo/config/placement.py: PlacementConfig.deadline_s",
        "alphagrpo/config/learning.py: LearnerConfig.deadline_s",
    }


def test_config_clients_and_gateway_agree() -> None:
    default = Patience().patience()
    assert default == {"max_concurrency": 16, "deadline_s": 300.0}
    assert ServiceConfig().patience() == CallPolicy().patience() == default
    for client in (connect_verifier(), connect_decomposer()):
        assert client._caller.policy == CallPolicy()
    assert connect_generator()._caller.policy == CallPolicy()
    assert connect_generator(deadline_s=2.0)._caller.policy.deadline_s == 2.0
    gateway = GatewaySettings()
    assert gateway.patience() == {"max_concurrency": 64, "deadline_s": 180.0}
    assert connect_verifier(**gateway.patience())._caller.policy.patience() == gateway.patience()


def test_a_run_configs_options_are_what_the_clients_take() -> None:
    services = load_config(ROOT / "deploy/configs/bagel-7b-rt2i.yaml").services
    own = {"max_concurrency": 64, "deadline_s": 900.0}
    verifier = connect_verifier(**services.verifier_options())
    decomposer = connect_decomposer(**services.decomposer_options())
    assert verifier._caller.policy.patience() == own
    assert decomposer._caller.policy.patience() == own


def test_the_store_is_the_configs_or_the_runs(tmp_path: Path) -> None:
    assert ServiceConfig().decomposer_options()["question_store"] is None
    assert ServiceConfig().decomposer_options(tmp_path)["question_store"] == str(tmp_path)
    own = ServiceConfig(question_store=tmp_path / "own", decomposer_app="d", verifier_app="v")
    assert own.decomposer_options(tmp_path)["question_store"] == str(tmp_path / "own")
    assert own.decomposer_options()["app"] == "d"
    assert own.verifier_options()["app"] == "v"


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_concurrency", 0), ("deadline_s", 0.0), ("max_attempts", 4)],
)
def test_impossible_patience_is_refused_everywhere(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{name}.*got {value}"):
        connect_verifier(**{name: value})
    with pytest.raises(ConfigError, match=rf"{name}.*got {value}"):
        parse_settings(GatewaySettings, {name: value}, "gateway")
