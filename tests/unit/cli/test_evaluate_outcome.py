"""What ``evaluate``, the end of a run and ``report`` print: the figures' own numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from alphagrpo.cli import evaluate, local_policy, outcome
from alphagrpo.cli.console import Narrator
from alphagrpo.cli.main import main
from alphagrpo.eval.figures import RefinedFigures, SortFigures
from alphagrpo.eval.lines import HeldOutLine
from alphagrpo.eval.oracles import shapes_oracle, shapes_reflection
from alphagrpo.eval.paired import PairedDifference
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.jsonl import read_heldout_lines
from alphagrpo.record.summary import (
    EvaluationSummary,
    Parity,
    RunSummary,
    SampleCounts,
    StageSeconds,
    StepPace,
)
from alphagrpo.types import Sort
from tests.fakes import make_config
from tests.synthetic_run import RenderingPool, make_run

GAIN = PairedDifference(mean=0.125, low=-0.0312, high=0.2812, n=9)
LAST = RefinedFigures(n=9, all_right=0.5, mended=0.25, broken=0.125, dvreward=0.4321)
GATED = replace(LAST, all_right=0.75, all_right_gain=GAIN, named=1.0)
PLAIN = SortFigures(
    n=9,
    per_question=0.875,
    all_right=0.625,
    strict=0.375,
    dvreward=0.54321,
    all_right_interval=(0.5, 0.75),
    refined={"round1": {"last": LAST, "gated": GATED}},
)


def test_figures_of_a_sort_stand_in_the_columns_that_name_them() -> None:
    cells = dict(
        zip(evaluate.EVALUATION_COLUMNS[1:], evaluate.evaluation_cells(PLAIN), strict=True)
    )
    assert cells == {
        "n": "9",
        "all right": "62.5%",
        "95 %": "50.0% - 75.0%",
        "strict": "37.5%",
        "per question": "87.5%",
        "DVReward": "0.543",
    }
    assert evaluate.evaluation_cells(SortFigures(n=2)) == ("2", "-", "-", "-", "-", "-")


def test_rounds_have_a_row_per_chain() -> None:
    assert PLAIN.refined is not None
    rows = evaluate.round_rows(PLAIN.refined)
    assert [dict(zip(evaluate.ROUND_COLUMNS, row, strict=True)) for row in rows] == [
        {
            "round": "1, last", "all right": "50.0%", "gain": "-", "DVReward": "0.432",
            "mended": "25.0%", "broken": "12.5%", "defect named": "-",
        },
        {
            "round": "1, gated", "all right": "75.0%", "gain": "+12.5", "DVReward": "0.432",
            "mended": "25.0%", "broken": "12.5%", "defect named": "100.0%",
        },
    ]  # fmt: skip


def test_edits_are_counted_and_their_shares_are_shares() -> None:
    edits = {"edit.n": 256.0, "edit.both": 0.5, "edit.both.recolour": 0.25}
    assert evaluate.edit_rows(edits) == [
        ("n", "256"),
        ("both", "50.0%"),
        ("both.recolour", "25.0%"),
    ]


SUMMARY = RunSummary(
    run="some",
    steps=7,
    wall_s=605.0,
    training_s=90.0,
    evaluation=EvaluationSummary(
        before={"plain": replace(PLAIN, all_right=0.25)},
        after={"plain": PLAIN, "thought": SortFigures(n=4, all_right=1.0)},
        difference={"plain": {"all_right": GAIN}},
    ),
    samples=SampleCounts(drawn=1200, scored=1190, invalid=10, trained=1100),
    time=StageSeconds(rollout_s=11.2, verify_wait_s=22.2, learn_s=33.3, sync_s=44.4),
    pace=StepPace(step_s=12.4, bound_s=9.5, efficiency=0.766),
    parity=Parity(max_abs_log_ratio_step0=2.5e-7),
    memory={"mesh_gib": 5.4, "driver_gib": 1.25, "runner_gib": 4.0},
    stopped_by="SIGTERM",
)


def test_the_facts_are_the_summarys() -> None:
    assert outcome.fact_rows(SUMMARY) == [
        ("steps", "7"),
        ("training", "1:30"),
        ("whole run", "10:05"),
        ("samples", "1,200 drawn, 10 without a score, 1,100 trained on"),
        (
            "seconds waited for",
            "drawing 11, verdicts 22, learning 33, weights 44",
        ),
        ("a step, median", "T 12.4 s, T* (longest stage) 9.50 s, efficiency T* / T 77%"),
        ("largest |log ratio| at step 0", "2.5e-07"),
        ("memory of the whole mesh", "5.40 GiB"),
        ("", "driver 1.25, runner 4.00"),
        ("ended by", "SIGTERM"),
    ]
    short = outcome.fact_rows(replace(SUMMARY, memory=None, stopped_by=None, parity=Parity()))
    assert short[-2][0] == "a step, median"
    assert short[-1] == ("largest |log ratio| at step 0", "-")
    earlier = outcome.fact_rows(replace(SUMMARY, pace=None))
    assert [row for row in outcome.fact_rows(SUMMARY) if row not in earlier] == [
        ("a step, median", "T 12.4 s, T* (longest stage) 9.50 s, efficiency T* / T 77%")
    ], "what a run of an earlier version did not measure is left out"


def test_differences_are_in_points_with_their_interval() -> None:
    assert outcome.difference_rows(SUMMARY.evaluation.difference) == [
        ("plain", "all right", "+12.5", "-3.1 to +28.1")
    ]


def test_the_outcome_prints_before_and_after_of_the_sorts_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome.tell_outcome(Narrator(), SUMMARY, Path("runs/some/report.html"))
    printed = capsys.readouterr().out
    rows = [line.split()[:4] for line in printed.splitlines()]
    assert ["plain", "before", "9", "25.0%"] in rows
    assert ["plain", "after", "9", "62.5%"] in rows
    assert ["thought", "after", "4", "100.0%"] in rows
    assert ["thought", "before", "4", "100.0%"] not in rows
    assert "one refinement, all right" in printed
    assert "report: runs/some/report.html" in printed


class RenderingPolicy(RenderingPool):
    """Stands in for ``LocalPolicy``: always right, and has no model."""

    model = tokenizer = None

    def __init__(self, config: Any, checkpoint: Path | None) -> None:
        super().__init__(1.0)


@pytest.fixture
def run_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(local_policy, "LocalPolicy", RenderingPolicy)
    config = make_config(
        data={"heldout": "shapes:heldout"}, evaluation={"num_plain": 3, "num_thought": 2}
    )
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    return path


def test_evaluate_prints_the_figures_of_the_lines_it_writes(
    run_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "lines.jsonl"
    assert main(["evaluate", str(run_config), "--json", "--output", str(output)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {sort: (of["n"], of["all_right"]) for sort, of in figures.items()} == {
        "plain": (3, 1.0),
        "thought": (2, 1.0),
    }
    lines: list[HeldOutLine] = read_heldout_lines(output)
    sorts: list[Sort] = [line.sort for line in lines]
    assert sorts == ["plain"] * 3 + ["thought"] * 2
    assert all(line.version == -1 and line.opinion.all_right for line in lines)
    assert main(["evaluate", str(run_config)]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[:3] for line in printed.splitlines() if line.startswith("thought")] == [
        ["thought", "2", "100.0%"]
    ]


def test_evaluate_refuses_what_it_has_nobody_for(
    run_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run_config), "--dvreward"]) == 2
    assert "--dvreward needs services.serve_config" in capsys.readouterr().err
    prompts = tmp_path / "p.txt"
    prompts.write_text("a red circle\n", encoding="utf-8")
    options = ["--edits", "4", "--set", f"data.heldout={prompts}"]
    assert main(["evaluate", str(run_config), *options]) == 2
    assert "--edits needs a world with an oracle" in capsys.readouterr().err


def test_only_the_worlds_prompts_have_an_oracle_and_only_served_runs_a_verifier() -> None:
    world = evaluate.judges_of(make_config(data={"heldout": "shapes:heldout"}), services=False)
    assert (world.oracle, world.reflection) == (shapes_oracle, shapes_reflection)
    assert world.verifier is world.decomposer is world.program is None
    other = evaluate.judges_of(make_config(data={"heldout": "p.txt"}), services=False)
    assert other.oracle is other.reflection is None


def test_report_writes_the_page_of_a_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, steps=1, heldout=2)
    assert main(["report", str(run.path)]) == 0
    assert capsys.readouterr().out.strip() == str(run.report_path)
    assert RunFolder.open(run.path).report_path.read_text(encoding="utf-8").startswith("<!doctype")
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "must hold a config.yaml" in capsys.readouterr().err
