from __future__ import annotations

import json

import pytest

from alphagrpo.cli.console import Narrator, duration, make_console, print_table

FIGURES = {
    "step": 3,
    "of": 40,
    "reward": 0.7214,
    "heldout": 0.481,
    "samples_per_s": 21.34,
    "log_ratio": 3e-7,
    "left_s": 572.4,
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (60, "1:00"), (572.4, "9:32"), (3723, "1:02:03")],
)
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_step_is_one_line_with_what_people_ask_for(capsys: pytest.CaptureFixture[str]) -> None:
    Narrator().step(FIGURES)
    (line,) = capsys.readouterr().out.splitlines()
    for part in ("step    3/40", "reward 0.721", "held-out 48%", "21.3 samples/s", "left 9:32"):
        assert part in line


def test_figures_that_are_not_known_yet_are_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    Narrator().step({"step": 1, "of": 2, "left_s": 1.0})
    line = capsys.readouterr().out
    assert "reward -" in line
    assert "held-out -" in line


def test_for_machines_every_line_is_a_json_event(capsys: pytest.CaptureFixture[str]) -> None:
    narrator = Narrator(as_json=True)
    with narrator.stage("starting Ray"):
        narrator.step(FIGURES)
    with narrator.counted("pictures", 4) as tell:
        tell(1)
        tell(4)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["note", "step", "note", "note", "note"]
    assert events[1]["reward"] == pytest.approx(0.7214)
    assert events[-1] == {"event": "note", "text": "pictures: 4/4", "done": 4, "total": 4}


def test_counted_work_tells_of_quarters_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Narrator().counted("pictures", 100) as tell:
        for done in range(1, 101):
            tell(done)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in shown] == ["25/100", "50/100", "75/100", "100/100"]


def test_text_that_looks_like_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Narrator().say("a [red] circle")
    print_table(make_console(), "t [x]", [("[bold]", "1")])
    shown = capsys.readouterr().out
    assert "a [red] circle" in shown
    assert "t [x]" in shown
    assert "[bold]" in shown


def test_a_command_in_a_line_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    command = f"`alphagrpo train {'long/' * 40}run.yaml --resume`"
    Narrator().say(f"go on with {command}")
    assert command in capsys.readouterr().out
