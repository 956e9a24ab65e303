from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alphagrpo.cli.main import main
from alphagrpo.config import load_config
from alphagrpo.policy.family import FAMILY
from alphagrpo.policy.memory import model_size

ROOT = Path(__file__).parents[3]
BAGEL = ROOT / "deploy/configs/bagel-7b-rt2i.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model, prompt or Serve file lies here, as on a laptop that only looks."""
    monkeypatch.chdir(tmp_path)


def dry_run(
    capsys: pytest.CaptureFixture[str], *changes: str, config: Path = BAGEL
) -> dict[str, Any]:
    arguments = [word for change in changes for word in ("--set", change)]
    assert main(["train", str(config), "--dry-run", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_sizes_of_the_released_model_are_the_published_ones() -> None:
    shape, size = model_size(load_config(BAGEL))
    assert shape == FAMILY.released_shape()
    assert size.assumed
    assert size.understanding == size.generation == pytest.approx(6.53e9, rel=1e-3)
    assert size.embeddings == 2 * 152064 * 3584
    assert size.lora == shape.adapter_weights(32) == pytest.approx(161.5e6, rel=1e-3)
    assert 2 * shape.kv_values_per_token == 56 * 1024
    assert size.total == pytest.approx(14.7e9, rel=0.01)


def test_released_recipe_passes_without_its_files_and_says_what_it_assumed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = dry_run(capsys)
    assert found["step"]["trajectories"] == 448
    assert list(found["step"]["tasks"]) == ["rt2i"]
    assert found["step"]["tasks"]["rt2i"]["denoising_steps"] == 15
    assert found["step"]["tasks"]["rt2i"]["window_starts"] == [0, 1]
    assert found["memory"]["tokens_per_image"] == 1024
    assert found["memory"]["weights"] == 2 * found["model"]["total"]
    assert found["memory"]["optimizer"] == 8 * found["model"]["lora"]
    roles = {role["name"]: role for role in found["placement"]["roles"]}
    assert {"serve decomposer/Decomposer", "serve verifier/Verifier"} <= roles.keys()
    assert found["placement"]["gpus"] == 11, (
        "learner and runners 8, the services that are shipped 3"
    )
    assert any("released BAGEL-7B-MoT sizes" in note for note in found["notes"])
    assert any("train.jsonl does not exist" in note for note in found["notes"])
    assert list(Path.cwd().iterdir()) == [], "a dry run writes nothing"


def test_released_refinement_recipe_is_planned_with_its_pictures_and_three_branches(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = dry_run(capsys, config=BAGEL.with_name("bagel-7b-srr.yaml"))
    assert list(found["step"]["tasks"]) == ["srr"]
    task = found["step"]["tasks"]["srr"]
    assert (task["denoising_steps"], task["trained_steps"], task["text_weight"]) == (39, 5, 0.2)
    assert task["window_starts"] == list(range(11))
    assert found["step"]["drafts_per_prompt"] == 7
    plain = dry_run(capsys)
    ratio = found["memory"]["activations"] / plain["memory"]["activations"]
    assert ratio == pytest.approx(3 / 2)
    # A picture is 1026 latent and 1371 vision tokens (method: section 10).
    assert FAMILY.released_shape().picture_tokens(512, 512) == 1026 + 1371
    per_token = found["model"]["kv_bytes_per_token"]
    assert found["memory"]["context_per_group"] > 4 * 14 * (1026 + 1371 + 1024) * per_token


def test_the_table_for_people_is_stable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(BAGEL), "--dry-run"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for expected in (
        "trajectories 448 32 prompts x 14 samples",
        "rollout runner 7 x 4 CPU, 1 GPU",
        "learner 1 x 8 CPU, 1 GPU",
        "understanding expert 6.53 B",
        "LoRA 161.5 M rank 32, both experts; all else frozen",
        "weights 29.38 GB bfloat16, in every runner and the learner",
        "AdamW moments 1.29 GB learner",
        "keys and values 56 KiB per token bfloat16",
        "|log ratio| allowed 1.0e-06 / 2.0e-02 image / text at step 0; a run above it is refused",
    ):
        assert expected in lines, expected


def test_training_the_experts_keeps_masters_for_bfloat16_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    half = dry_run(capsys, "model.trainable=experts")
    full = dry_run(capsys, "model.trainable=experts", "model.dtype=float32")
    assert half["memory"]["trainable"] == full["memory"]["trainable"] > 13e9
    assert half["memory"]["masters"] == 4 * half["memory"]["trainable"]
    assert full["memory"]["masters"] == 0


def test_pictures_must_fit_the_models_grid(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", str(BAGEL), "--dry-run", "--set", "task.height=500"]
    assert main(arguments) == 2
    assert "multiple of 16 pixels and at most 1024" in capsys.readouterr().err


def test_prompt_files_that_exist_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.jsonl").write_text("{\n", encoding="utf-8")
    assert main(["train", str(BAGEL), "--dry-run", "--set", "data.train=bad.jsonl"]) == 2
    assert "line 1" in capsys.readouterr().err


def test_serve_replicas_are_read_from_the_serve_file(capsys: pytest.CaptureFixture[str]) -> None:
    serve = Path("serve.yaml")
    serve.write_text(
        """
applications:
  - name: verifier
    import_path: x:build
    deployments:
      - name: Verifier
        autoscaling_config: {min_replicas: 2, max_replicas: 8}
        ray_actor_options: {num_cpus: 4, num_gpus: 1}
""",
        encoding="utf-8",
    )
    found = dry_run(capsys, "services.serve_config=serve.yaml")
    assert found["placement"]["gpus"] == 10
    role = found["placement"]["roles"][-1]
    assert (role["name"], role["count"], role["largest"]) == ("serve verifier/Verifier", 2, 8)
