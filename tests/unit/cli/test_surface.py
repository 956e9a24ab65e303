from __future__ import annotations

import argparse

import pytest

from alphagrpo.cli.main import COMMANDS, USER_ERROR, build_parser, main

SURFACE = {
    "train": {"config", "--set", "--resume", "--dry-run", "--card", "--json"},
    "evaluate": {
        "config", "--set", "--checkpoint", "--dvreward", "--edits", "--output", "--json",
    },
    "generate": {
        "text", "--config", "--set", "--checkpoint", "--seed", "--steps", "--image", "--refine",
        "--gate", "--serve-config", "--scale", "--output", "--json",
    },
    "decompose": {"text", "--file", "--store", "--serve-config", "--app", "--json"},
    "judge": {"image", "--prompt", "--question", "--program", "--serve-config", "--json"},
    "serve": {"config", "--status", "--down", "--json"},
    "doctor": {"run_folder", "--json"},
    "report": {"run_folder"},
    "ledger": {
        "run_folder", "topic", "--sample", "--steps", "--top", "--at-least", "--bins", "--json",
    },
    "rescore": {
        "run_folder", "--judge", "--program", "--aggregate", "--kinds", "--steps",
        "--serve-config", "--json",
    },
    "shapes": {"action"},
    "shapes sheet": {"--output", "--num", "--seed"},
}  # fmt: skip


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def options(parser: argparse.ArgumentParser) -> set[str]:
    named = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
    return {a.option_strings[-1] if a.option_strings else a.dest for a in named}


def test_the_command_line_is_frozen() -> None:
    found = {}
    for name, parser in subparsers(build_parser()).items():
        found[name] = options(parser)
        for inner, sub in subparsers(parser).items():
            found[f"{name} {inner}"] = options(sub)
    assert found == SURFACE
    assert set(COMMANDS) == {name for name in SURFACE if " " not in name}


def test_help_of_every_command_exits_cleanly(capsys: pytest.CaptureFixture[str]) -> None:
    for name in SURFACE:
        with pytest.raises(SystemExit) as ended:
            main([*name.split(), "--help"])
        assert ended.value.code == 0
        assert "usage: alphagrpo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["report", "nowhere"], "config.yaml"),
        (["decompose"], "give one"),
        (["decompose", "  "], "empty"),
        (["judge", "x.png"], "neither --prompt nor --question"),
        (["judge", "nowhere.png", "--question", "is it red ?"], "must exist"),
        (["generate", " "], "empty"),
        (["serve"], "needs a Serve config"),
        (["serve", "nowhere.yaml"], "must exist"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")  # whatever else runs on this machine
    assert main(arguments) == USER_ERROR
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert says in shown
    assert "Traceback" not in shown
