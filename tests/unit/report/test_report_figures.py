"""Facts, notes and curves of the report against the summary and metrics they are made of."""

from __future__ import annotations

from alphagrpo.eval.figures import SortFigures
from alphagrpo.record.curve import HeldOutCurve
from alphagrpo.record.summary import EvaluationSummary, Parity, RunSummary, SampleCounts
from alphagrpo.report.curves import heldout_note, heldout_series
from alphagrpo.report.figures import facts, notes


def test_facts_and_notes_are_the_summarys_and_the_metrics_figures() -> None:
    summary = RunSummary(
        steps=7,
        wall_s=600.0,
        training_s=90.0,
        samples=SampleCounts(drawn=1234, scored=1230, invalid=4),
        parity=Parity(max_abs_log_ratio_step0=2.5e-7),
        prompts_set_aside={f"p{i}": f"reason {i}" for i in range(7)},
        memory={"mesh_gib": 5.44, "driver_gib": 1.0},
        stopped_by="SIGTERM",
    )
    assert facts(summary, []) == [
        ("steps", "7"),
        ("training", "1.5 min"),
        ("whole run", "10.0 min"),
        ("pictures drawn", "1,234"),
        ("|log ratio|, step 0", "2.5e-07"),
        ("memory of the mesh", "5.4 GiB"),
    ]
    metrics = [
        {"groups/dropped": 2.0, "learner/skipped": 1.0},
        {"groups/dropped": 1.0, "learner/skipped": 0.0},
        {"learner/skipped": 1.0},
    ]
    lines = notes(summary, metrics)
    assert lines[0].startswith("4 of 1,234 samples could not be scored")
    assert lines[1] == "3 groups had too few scored samples and were dropped."
    assert lines[2:8] == [
        *(f"Prompt p{i} was set aside: reason {i}" for i in range(5)),
        "2 more prompts were set aside.",
    ]
    assert lines[8:11] == [
        "2 steps took no update: every advantage was zero.",
        "Training ended because of: SIGTERM.",
        "There is no evaluation after training (yet), so no before and after.",
    ]
    assert facts(RunSummary(), metrics) == [("steps", "3")]
    figures = {"plain": SortFigures(n=1)}
    assert len(notes(RunSummary(evaluation=EvaluationSummary(after=figures)), [])) == 1


def test_the_held_out_chart_says_on_how_many_prompts_it_stands() -> None:
    curve = HeldOutCurve(
        points={"plain": ((0.0, 0.25), (2.0, 0.5)), "thought": ((2.0, 0.125),)},
        num_prompts={"plain": 48, "thought": 32},
        num_heldout={"plain": 256, "thought": 32},
    )
    thought, plain = heldout_series(curve)
    assert (plain.name, plain.points) == ("Plain prompts", ((0.0, 0.25), (2.0, 0.5)))
    assert thought.points == ((2.0, 0.125),)
    assert heldout_note(curve) == (
        "by the oracle, which never rewards; every point is of the same 32 prompts that need a "
        "thought and 48 of 256 plain prompts"
    )
