"""A pre-training's lines in a log."""

from __future__ import annotations

import pytest

from alphagrpo.cli.console import Narrator
from miniature.progress import ProgressLines
from miniature.training import TrainProgress


def at(fraction: float) -> TrainProgress:
    return TrainProgress(
        step=round(1000 * fraction),
        fraction=fraction,
        loss=0.5,
        learning_rate=1e-3,
        steps_per_second=2.0,
        seconds=500.0 * fraction,
        seconds_left=500.0 * (1 - fraction),
        figures={"l1": 0.25},
    )


def test_a_leg_has_a_line_per_two_per_cent(capsys: pytest.CaptureFixture[str]) -> None:
    show = ProgressLines(Narrator())
    for step in range(1, 201):
        show(at(step / 200), "policy")
    lines = capsys.readouterr().out.splitlines()
    assert 48 <= len(lines) <= 52
    assert "policy" in lines[0]
    assert "l1 0.250" in lines[0]
    assert "100%" in lines[-1]


def test_the_leg_after_a_finished_one_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    show = ProgressLines(Narrator())
    show(at(1.0), "autoencoder")
    show(at(0.01), "policy")
    show(at(0.5), "policy")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == ["autoencoder", "policy", "policy"]
