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
SEVEN_AND_ONE = [
    "--set", "rollout.num_runners=7", "--set", "learner.ranks=1", "--set", "learner.recompute=all",
]  # fmt: skip
"""The split that was measured to be upside down."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model, prompt or Serve file lies here, as on a laptop that only looks."""
    monkeypatch.chdir(tmp_path)


def dry_run(
    capsys: pytest.CaptureFixture[str], *changes: str, config: Path = BAGEL
) -> dict[str, Any]:
    arguments = [word for change in changes for word in ("--set", change)]
    assert main(["train", str(config), *SEVEN_AND_ONE, "--dry-run", "--json", *arguments]) == 0
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
    wide = found["model"]["float32"]
    assert found["memory"]["weights"] == 2 * found["model"]["total"] + 2 * wide
    assert wide == pytest.approx(116.3e6, rel=1e-3), "position tables, velocity head, autoencoder"
    assert found["memory"]["optimizer"] == 8 * found["model"]["lora"]
    roles = {role["name"]: role for role in found["placement"]["roles"]}
    assert {"serve decomposer/Decomposer", "serve verifier/Verifier"} <= roles.keys()
    assert found["placement"]["gpus"] == 11, "learner and runners 8, services 3"
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
    taken, plainly = (f["memory"]["learning"]["activations"] for f in (found, plain))
    assert 1.4 < taken / plainly < 1.6, "three branches instead of two"
    # A picture is 1026 latent and 1371 vision tokens (method: section 10).
    assert FAMILY.released_shape().picture_tokens(512, 512) == 1026 + 1371
    per_token = found["model"]["kv_bytes_per_token"]
    assert found["memory"]["learning"]["context"] > 3 * 14 * (1026 + 1371 + 1024) * per_token


def test_the_table_for_people_is_stable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(BAGEL), *SEVEN_AND_ONE, "--dry-run"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for expected in (
        "trajectories 448 32 prompts x 14 samples",
        "rollout runner 7 x 4 CPU, 1 GPU on mesh.pool: in(rollout,all)",
        "learner 1 x 8 CPU, 1 GPU on mesh.pool: in(learner,all)",
        "weight registry 1 x 0 CPU on mesh.pool: in(learner,all)",
        "understanding expert 6.53 B",
        "LoRA 161.5 M rank 32, both experts; all else frozen",
        "weights 29.61 GB bfloat16, 116.3 M of them float32; in every runner and the learner",
        "drawing: decoding 8.03 GB likewise, 4 pictures at a time",
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
    arguments = ["train", str(BAGEL), *SEVEN_AND_ONE, "--dry-run", "--set", "task.height=500"]
    assert main(arguments) == 2
    assert "multiple of 16 pixels and at most 1024" in capsys.readouterr().err


def test_prompt_files_that_exist_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.jsonl").write_text("{\n", encoding="utf-8")
    assert (
        main(["train", str(BAGEL), *SEVEN_AND_ONE, "--dry-run", "--set", "data.train=bad.jsonl"])
        == 2
    )
    assert "line 1" in capsys.readouterr().err


def test_serve_replicas_are_read_from_the_serve_file(capsys: pytest.CaptureFixture[str]) -> None:
    serve = Path("serve.yaml")
    serve.write_text(
        """
applications:
  - {name: decomposer, import_path: x:build, route_prefix: /d, deployments: [{name: Decomposer}]}
  - {name: gateway, import_path: x:build, route_prefix: /g}
  - name: verifier
    import_path: x:build
    deployments:
      - name: Verifier
        autoscaling_config: {min_replicas: 2, max_replicas: 8}
        ray_actor_options:
          num_cpus: 4
          num_gpus: 1
          label_selector: {mesh.pool: verifier}
""",
        encoding="utf-8",
    )
    found = dry_run(capsys, "services.serve_config=serve.yaml")
    assert found["placement"]["gpus"] == 10
    names = [role["name"] for role in found["placement"]["roles"] if "serve" in role["name"]]
    assert names == ["serve decomposer/Decomposer", "serve verifier/Verifier"], "what a run asks"
    role = found["placement"]["roles"][-1]
    assert (role["name"], role["count"], role["largest"]) == ("serve verifier/Verifier", 2, 8)
    assert role["selector"] == {"mesh.pool": "verifier"}
    assert (
        main(
            [
                "train",
                str(BAGEL),
                *SEVEN_AND_ONE,
                "--dry-run",
                "--set",
                "services.serve_config=serve.yaml",
            ]
        )
        == 0
    )
    assert "on mesh.pool: verifier; scales to 8" in capsys.readouterr().out


def test_the_time_of_a_step_is_predicted_with_advice(capsys: pytest.CaptureFixture[str]) -> None:
    """7 runners and a learner, and the same 8 cards shared: docs/speed.md has the measured ones."""
    found = dry_run(capsys, "learner.streamed=false", "services.serve_config=null")
    time = found["time"]
    assert time["card"]["name"] == "H200"
    assert time["thought_tokens"] == 128
    assert time["step_s"] / 60 == pytest.approx(18.6, rel=0.02)
    assert time["step_s"] == time["unstreamed_step_s"]
    assert time["bound_s"] == pytest.approx(time["stages"]["learn"]["even_s"])
    assert time["efficiency"] == pytest.approx(time["bound_s"] / time["step_s"])
    best = time["changes"][0]
    assert best["name"] == "shared cards"
    assert best["step_s"] / 60 == pytest.approx(4.3, rel=0.02)
    expected = (
        "shared cards would shorten a step most, from 18.7 min to 4.3 min: learner.placement "
        "runners, learner.gpus 0, rollout.num_runners 8"
    )
    assert time["advice"] == expected
    assert "the predicted step waits for no verdict" in found["notes"][-1]


def test_the_prediction_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(BAGEL), *SEVEN_AND_ONE, "--dry-run", "--card", "a100"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for expected in (
        "runner 39.55 GB 80 GB: fits; 141 GB: fits",
        "assumed card A100 estimate: the H200's figures x 0.32, the ratio of published peaks",
        "drawing a group 63.7 s 5,491 TFLOP, thoughts 21.8 s of it",
        "judging 25.2 s W = 50.4 s; judge GPUs: 2, 1% busy",
        "note: assumed, not measured: 45 questions a picture, 400 a second answered by each "
        "judge's GPU",
    ):
        assert expected in lines, expected
    assert any(line.startswith("shared cards ") for line in lines)
    assert any(line.startswith("advice: shared cards would shorten") for line in lines)


def test_the_judges_are_those_of_the_serve_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(capsys)["time"]["mesh"]["judges"] == 2, "which it starts with"


def test_an_unknown_card_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", str(BAGEL), *SEVEN_AND_ONE, "--dry-run", "--card", "H2"]) == 2
    assert "one of H200, H100, A100, got 'H2'" in capsys.readouterr().err


def test_nothing_is_predicted_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    found = dry_run(capsys, "model.device=cpu", "rollout.max_lag=1")
    assert not {"time", "cases"} & found.keys()
    assert any("not predicted for model.device cpu" in note for note in found["notes"])
    assert any("35 to 49 % of the image terms" in note for note in found["notes"])
    auto = dry_run(capsys, "model.device=auto", "rollout.gpus_per_runner=0")
    assert "time" not in auto
    assert "time" in dry_run(capsys, "model.device=auto")


def test_what_fits_where_is_told_of_every_number_of_ranks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = dry_run(capsys, "model.trainable=experts", "learner.ranks=2", "algorithm.text.weight=1")
    names = [case["name"] for case in found["cases"]]
    assert names == [
        "runner",
        "learner",
        "learner, 1 of 2",
        "learner, 1 of 4",
        "learner, 1 of 8",
        "shared card, 1 of 9",
    ]
    (note,) = [note for note in found["notes"] if "needs about" in note]
    assert note == (
        "a learner, 1 of 2 needs about 168 GB, H200 has 141; raise learner.ranks, raise "
        "rollout.slices or lower rollout.group_size"
    )


def test_a_learner_that_keeps_all_layers_is_told_to_recompute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = dry_run(capsys, "learner.recompute=false")
    notes = [note for note in found["notes"] if "needs about" in note]
    assert [note.split(" needs")[0] for note in notes] == ["a learner", "a shared card, 1 of 8"]
    assert all("set learner.recompute to all, raise rollout.slices" in n for n in notes)


def test_a_budget_says_how_many_layers_each_card_recomputes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = dry_run(capsys, "learner.recompute=auto")
    (learner,) = [case for case in found["cases"] if case["name"] == "learner"]
    (small, few_there), (large, few) = learner["recomputed"]
    assert (small, large) == (80e9, 141e9)
    assert 28 >= few_there > few > 0
    all_s = dry_run(capsys)["time"]["group"]["learn_s"]
    assert found["time"]["group"]["learn_s"] < 0.95 * all_s, "on the H200 that is asked for"
    budget = dry_run(capsys, "learner.recompute=60")
    assert [layers for _, layers in budget["cases"][1]["recomputed"]] == [27, 27]
    assert main(["train", str(BAGEL), *SEVEN_AND_ONE[:4], "--dry-run"]) == 0
    assert f"fits, {few} layers recomputed" in capsys.readouterr().out


def test_runners_without_work_and_the_price_of_lag_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = dry_run(capsys)
    assert not any("nothing to draw" in note or "max_lag" in note for note in plain["notes"])
    found = dry_run(capsys, "rollout.num_runners=56", "rollout.max_lag=1")
    assert any(
        note.startswith("24 of 56 runners have nothing to draw in a step of 32 batches")
        for note in found["notes"]
    )
    assert any(
        note.startswith("rollout.max_lag 1: samples are learnt up to 1") for note in found["notes"]
    )
    sliced = dry_run(capsys, "rollout.num_runners=56", "rollout.slices=2")
    assert not any("nothing to draw" in note for note in sliced["notes"])


def test_shared_cards_have_a_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    changes = [
        "--set", "learner.placement=runners", "--set", "learner.gpus=0",
        "--set", "rollout.num_runners=8",
    ]  # fmt: skip
    assert main(["train", str(BAGEL), *SEVEN_AND_ONE, "--dry-run", *changes]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for expected in (
        "runner and rank 52.23 GB one copy of the weights",
        "drawing and learning 4.3 min W = 18.7 min + 15.8 min; cards: 8, 100% busy",
    ):
        assert expected in lines, expected
