"""``alphagrpo train`` over real Ray actors with a tiny BAGEL; the services alone are stand-ins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from alphagrpo.cli import evaluate as evaluate_command
from alphagrpo.cli import training
from alphagrpo.cli.main import main
from alphagrpo.models.bagel import random_bagel, save_bagel, tiny_config
from alphagrpo.record.folder import RunFolder
from miniature.policy.pretrain import special_ids
from miniature.tokenizer import build_tokenizer
from tests.fakes import make_config
from tests.synthetic_run import oracle_judges

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STAND_INS = {
    "decomposer": "tests.synthetic_run:connect_oracle_decomposer",
    "verifier": "tests.synthetic_run:connect_hashing_verifier",
}


@pytest.fixture
def run_config(tmp_path: Path) -> Path:
    tokenizer, base = build_tokenizer(), tiny_config()
    shape = tiny_config(
        llm=replace(base.llm, vocab_size=len(tokenizer)), special=special_ids(tokenizer)
    )
    save_bagel(random_bagel(shape, 0), tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    config = make_config(
        name="command",
        output=str(tmp_path / "runs"),
        model={"path": str(tmp_path / "model"), "trainable": "experts", "device": "cpu"},
        task={"system_prompt": "think first", "max_think_tokens": 6, "height": 48, "width": 48},
        data={"train": "shapes:train", "heldout": "shapes:heldout", "num_train": 12},
        rollout={"cpus_per_runner": 0.5},
        learner={"cpus": 0.5},
        training={"num_steps": 2, "checkpoint_every": 1, "report_groups_every": 1},
        evaluation={"num_points": 3, "num_plain": 4, "num_thought": 4, "every": 1, "num_probe": 2},
    )
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    return path


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    import actors.run

    monkeypatch.setattr(actors.run, "CLIENTS", STAND_INS)
    monkeypatch.setattr(evaluate_command, "judges_of", oracle_judges)


def test_train_then_resume_on_a_cluster_that_was_there_before(
    mesh_cluster: str,
    run_config: Path,
    stand_ins: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", mesh_cluster)
    assert main(["train", str(run_config)]) == 0
    folder = RunFolder.open(tmp_path / "runs/command")
    summary = json.loads((folder.path / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 2
    assert summary["weights"]["checksum"]
    assert summary["parity"]["image_max_abs_log_ratio_step0"] == 0.0
    assert summary["samples"]["trained"] > 0
    assert [line["step"] for line in folder.metrics()] == [1, 2]
    assert {row["judge"] for row in folder.ledger()} == {"fake@1"}
    assert folder.report_path.is_file()
    assert ray.is_initialized(), "a cluster that was there before is left alone"

    assert main(["train", str(run_config)]) == 2
    error = capsys.readouterr().err
    assert "already holds one that is finished (2 steps in" in error
    assert f"`alphagrpo train {run_config} --resume --set training.num_steps=4`" in error
    assert main(["train", str(run_config), "--resume"]) == 0
    assert "the run is finished: 2 steps in" in capsys.readouterr().out
    assert main(["train", str(run_config), "--resume", "--set", "training.num_steps=3"]) == 0
    assert [line["step"] for line in folder.metrics()] == [1, 2, 3]
    assert folder.summary().weights.version == 3
    assert main(["evaluate", str(run_config), "--checkpoint", str(folder.newest_checkpoint())]) == 0
    assert "plain" in capsys.readouterr().out


def test_a_run_that_can_never_be_placed_is_refused_before_its_services_are_deployed(
    mesh_cluster: str,
    run_config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def deployed(*_: object) -> None:
        raise AssertionError("deployed before it was known that there is room")

    monkeypatch.setattr(training, "deployed", deployed)
    monkeypatch.setenv("RAY_ADDRESS", mesh_cluster)
    changes = ["learner.gpus=1", "services.serve_config=deploy/serve/shapes.yaml"]
    arguments = [word for change in changes for word in ("--set", change)]
    assert main(["train", str(run_config), *arguments]) == 2
    assert "room for 0 of 1 learner (0.5 CPU, 1 GPU)" in capsys.readouterr().err
