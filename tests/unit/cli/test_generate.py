"""Drawing in process with a tiny random BAGEL: the real loading, thinking and denoising."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from alphagrpo.cli.main import main
from alphagrpo.models.bagel import random_bagel, save_bagel, tiny_config
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
