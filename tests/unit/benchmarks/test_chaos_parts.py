"""Chaos and soak: what is drawn, what is damaged, and what is compared."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.chaos import verdict
from benchmarks.chaos.__main__ import rows_of, sentence
from benchmarks.chaos.events import KINDS, Event, Kind, Outcome, drawn_events
from benchmarks.chaos.files import damage_newest_checkpoint, tear_metrics


def test_fifty_events_are_every_kind_by_its_weight_in_an_order_of_the_seed() -> None:
    events = drawn_events(1, 50, 4, 2.0)
    assert Counter(event.kind for event in events) == {kind: kind.weight for kind in KINDS}
    assert events == drawn_events(1, 50, 4, 2.0)
    assert [event.kind for event in events] != [event.kind for event in drawn_events(2, 50, 4, 2.0)]
    assert {event.steps for event in events} == {1, 2, 3, 4}
    assert all(0 <= event.delay <= 2 and 0 <= event.choice < 1 for event in events)


@pytest.mark.parametrize("choice", [0.1, 0.5, 0.9])
def test_the_newest_checkpoint_is_damaged_and_never_the_only_one(
    tmp_path: Path, choice: float
) -> None:
    for step in (2, 4):
        folder = tmp_path / f"checkpoints/step-{step:06d}/learner"
        folder.mkdir(parents=True)
        (folder / "learner.safetensors").write_bytes(b"\x01" * 300_000)
        assert (damage_newest_checkpoint(tmp_path, choice) is None) == (step == 2)
    intact, damaged = sorted(tmp_path.rglob("*.safetensors"))
    assert intact.read_bytes() == b"\x01" * 300_000
    assert damaged.read_bytes() != intact.read_bytes()


def test_the_last_line_of_the_metrics_is_cut_in_its_middle(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "reward/mean": 0.5}\n')
    tear_metrics(tmp_path)
    first, second = path.read_text().split("\n")
    assert json.loads(first) == {"step": 1}
    assert second
    with pytest.raises(json.JSONDecodeError):
        json.loads(second)


def test_lost_and_repeated_prompts_are_counted_from_the_ledgers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Folder:
        def __init__(self, path: Path) -> None:
            self.prompts = {"calm": "abcd", "rough": "abbe", "same": "abcd"}[path.name]

        def ledger_steps(self) -> list[int]:
            return [1, 2]

        def ledger(self, step: int) -> list[dict[str, object]]:
            prompts = self.prompts[2 * step - 2 : 2 * step]
            keys = ("run", "group", "prompt_id", "advantage")
            row = [dict(zip(keys, ("x", i, p, 0.5), strict=True)) for i, p in enumerate(prompts)]
            dropped = dict(zip(keys, ("x", 2, "z", None), strict=True))
            return [*row, *row, dropped]

        def summary(self) -> object:
            weights = type("Weights", (), {"version": 2, "checksum": "c"})
            return type("Summary", (), {"weights": weights})

    monkeypatch.setattr(verdict, "RunFolder", Folder)
    rough = verdict.compare(tmp_path / "calm", tmp_path / "rough")
    assert (rough.steps, rough.groups, rough.lost, rough.twice) == (2, 4, 2, 2)
    assert not rough.same_ledger
    assert not rough.holds
    same = verdict.compare(tmp_path / "calm", tmp_path / "same")
    assert same.holds
    assert sentence(same) == (
        "2 steps, 4 groups: 0 lost, 0 trained twice; ledger identical, final weights identical."
    )
    assert "ledger DIFFERENT" in sentence(rough)


def test_a_row_has_the_median_and_the_worst_and_what_ended_the_run() -> None:
    def outcome(role: str, seconds: float, *, resumed: bool = False) -> Outcome:
        return Outcome(Event(Kind("kill", role, 1), 1, 0.0, 0.0), seconds, resumed)

    rows = rows_of([outcome("learner", 9.0), outcome("runner", 1.0), outcome("runner", 3.0),
                    outcome("runner", 2.0, resumed=True)])  # fmt: skip
    assert rows == [
        ("kill, runner", "3", "2.0", "3.0", "1"),
        ("kill, learner", "1", "9.0", "9.0", "0"),
        ("all", "4", "2.5", "9.0", "1"),
    ]


def test_a_role_that_grows_is_told_from_one_that_levels_off(monkeypatch) -> None:
    monkeypatch.setattr(soak, "sizes", lambda processes: processes[0])
    clock = iter(60.0 * minute for minute in range(100))
    monkeypatch.setattr(soak, "time", type("Clock", (), {"monotonic": lambda: next(clock)}))
    looks = soak.Soak(warm_up_s=180.0)
    for minute in range(1, 11):
        level = min(100.0 + 50.0 * minute, 200.0)
        grows = 100.0 + 2.0 * minute
        looks.look({"levels": [(level, 7.0)], "grows": [(grows, 7.0 + minute)]}, run_folder=minute)
    rows = {row[0]: row[1:] for row in looks.rows()}
    assert rows["levels"] == ("150", "200", "200", "+0.00", "+0.000", "flat")
    assert rows["grows"] == ("102", "106", "120", "+2.00", "+1.000", "grows")
    assert rows["run folder"][-1] == ""
