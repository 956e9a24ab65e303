"""Drawing in process with a tiny random BAGEL: the real loading, thinking and denoising."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from alphagrpo.cli.main import main
from alphagrpo.models.bagel import random_bagel, save_bagel, tiny_config
from alphagrpo.types import Prompt, Question, Score, Verdict
from miniature.policy.pretrain import special_ids
from miniature.tokenizer import build_tokenizer
from tests.fakes import make_config


@pytest.fixture(scope="module")
def run_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    tokenizer = build_tokenizer()
    base = tiny_config()
    shape = tiny_config(
        llm=replace(base.llm, vocab_size=len(tokenizer)), special=special_ids(tokenizer)
    )
    save_bagel(random_bagel(shape, 0), folder / "model")
    tokenizer.save_pretrained(folder / "model")
    config = make_config(
        model={"path": str(folder / "model"), "trainable": "experts", "device": "cpu"},
        task={"system_prompt": "think first", "max_think_tokens": 4, "height": 48, "width": 48},
        data={"train": "shapes:train", "heldout": "shapes:heldout"},
        evaluation={"num_points": 3, "num_plain": 3, "num_thought": 2, "batch_size": 2},
    )
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    return path


def test_generate_prints_a_thought_and_saves_the_same_picture_for_the_same_seed(
    run_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = []
    for seed, name in ((1, "a.png"), (1, "b.png"), (2, "c.png")):
        options = [
            "--config",
            str(run_config),
            "--seed",
            str(seed),
            "--output",
            str(tmp_path / name),
        ]
        assert main(["generate", "a red circle", *options, "--scale", "2", "--json"]) == 0
        pictures.append(np.asarray(Image.open(tmp_path / name)))
        assert json.loads(capsys.readouterr().out)["seed"] == seed
    assert pictures[0].shape == (96, 96, 3)
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[0] != pictures[2]).any()
    np.testing.assert_array_equal(pictures[0][::2, ::2], pictures[0][1::2, 1::2])


def test_evaluate_gives_the_oracles_figures_without_any_service(
    run_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines.jsonl"
    assert main(["evaluate", str(run_config), "--output", str(lines), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["plain"]["n"], figures["thought"]["n"]) == (3, 2)
    assert figures["plain"]["all_right"] is not None
    assert figures["plain"]["dvreward"] is None
    assert len(lines.read_text().splitlines()) == 5


def test_a_checkpoint_that_is_none_is_refused(
    run_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(run_config), "--checkpoint", str(tmp_path)]
    assert main(["generate", "a red circle", *options]) == 2
    assert "learner.json" in capsys.readouterr().err


def test_an_output_that_is_no_picture_is_refused_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = ["--config", str(tmp_path / "none.yaml")]  # not even read
    assert main(["generate", "a red circle", *nowhere, "--output", str(tmp_path / "folder")]) == 2
    assert "--output must end in .png" in capsys.readouterr().err


@pytest.fixture
def refining(run_config: Path, tmp_path: Path) -> Path:
    path = tmp_path / "refining.yaml"
    refinement = {"prompt": "the picture should be {prompt}", "text": {"top_p": 1.0}}
    window = {"length": 2, "allowed": [0, 3]}
    flow = {"num_points": 4, "window": window}
    content = {"base": str(run_config), "refinement": refinement | {"flow": flow}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_refining_without_a_gate_keeps_the_last_and_saves_every_round(
    refining: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "p.png"
    options = ["--config", str(refining), "--output", str(output), "--json"]
    assert main(["generate", "a red circle", *options, "--refine", "2", "--gate", "none"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["kept_round"] == 2
    assert [r["refined_from"] for r in record["rounds"]] == [None, 0, 1]
    assert [r["score"] for r in record["rounds"]] == [None] * 3
    pictures = [np.asarray(Image.open(r["picture"])) for r in record["rounds"]]
    assert (pictures[1] != pictures[2]).any()
    np.testing.assert_array_equal(np.asarray(Image.open(output)), pictures[2])


def test_the_gate_keeps_the_better_picture_and_prints_its_verdicts(
    refining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    values = iter([0.2, 0.6, 0.4])

    async def score(prompt: Prompt, pixels: np.ndarray) -> Score:
        value = next(values)
        question = Question(id="s0", text="is it red ?", kind="semantic", tag="Attribute")
        verdict = Verdict(question_id="s0", p_yes=value, judge="fake@1")
        return Score(
            semantic=value, quality=None, value=value, verdicts=(verdict,), questions=(question,)
        )

    monkeypatch.setattr("services.scoring.connect_scorer", lambda services, reward: score)
    monkeypatch.setattr("alphagrpo.cli.generate.serving", lambda *arguments: nullcontext())
    options = ["--config", str(refining), "--output", str(tmp_path / "p.png")]
    assert main(["generate", "a red circle", *options, "--refine", "2"]) == 0
    told = capsys.readouterr().out
    for words in ("draft  0.200", "round 1, from the draft  0.600 - kept", "0.600  is it red ?"):
        assert words in told
    assert "round 2, from round 1  0.400 - not kept" in told
    kept, last = (np.asarray(Image.open(tmp_path / f"p-round{i}.png")) for i in (1, 2))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "p.png")), kept)
    assert (kept != last).any()


def test_an_edit_begins_from_the_picture_it_is_given(
    refining: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = []
    for level in (0, 255):
        source, output = tmp_path / f"{level}.png", tmp_path / f"edited-{level}.png"
        Image.fromarray(np.full((48, 48, 3), level, np.uint8)).save(source)
        options = ["--config", str(refining), "--image", str(source), "--output", str(output)]
        assert main(["generate", "make it red", *options, "--json"]) == 0
        results.append(np.asarray(Image.open(output)))
    assert (results[0] != results[1]).any()
    capsys.readouterr()
    options = ["--config", str(refining), "--image", str(tmp_path / "no.png")]
    assert main(["generate", "make it red", *options]) == 2
    assert "the picture must exist" in capsys.readouterr().err
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "small.png")
    options = ["--config", str(refining), "--image", str(tmp_path / "small.png")]
    assert main(["generate", "make it red", *options]) == 2
    assert "48 x 48 pixels" in capsys.readouterr().err
    assert main(["generate", "make it red", *options, "--refine", "1"]) == 2
    assert "no prompt to refine towards" in capsys.readouterr().err
