"""The GPU's benchmark on a CPU: the miniature goes through every section of it."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
import torch

import benchmarks.gpu.__main__ as program
from alphagrpo.models.bagel import tiny_config
from alphagrpo.models.bagel.sizes import BagelShape
from alphagrpo.models.lora import adapters
from benchmarks.gpu import subject as subjects
from benchmarks.gpu.sections import SECTIONS, Bench
from benchmarks.timing import Roofs

CPU = torch.device("cpu")
ROOFS = Roofs(copy=1e10, product=1e11)


@pytest.fixture(scope="module")
def rows() -> dict[str, str]:
    made = subjects.subject("bagel-7b-rt2i", thought_tokens=8, device=CPU)
    bench = Bench(subject=made, roofs=ROOFS, tokens=8)
    return {
        row.what: row.value
        for name, section in SECTIONS.items()
        if name != "kernels"
        for row in section(bench)
    }


def test_what_must_be_equal_is_equal(rows: dict[str, str]) -> None:
    assert rows["ids of all three"] == "the same"
    assert rows["drawn again"] == "the same bits"
    ratios = [value for what, value in rows.items() if what.startswith("largest |log ratio|")]
    assert ratios == ["0"] * 4, "image and text, before and after an update"
    shapes = [value for what, value in rows.items() if " queries, " in what]
    assert len(shapes) > 5
    assert set(shapes) == {"always the same bits"}


def test_the_update_is_one_that_the_second_gate_can_see(rows: dict[str, str]) -> None:
    assert float(rows["their effect on the policy's output"]) > 1e-6


def test_a_section_that_fails_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_: Bench) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(SECTIONS, "drawing", failing)
    monkeypatch.setattr(program, "roofs", lambda _: ROOFS)
    command = ["gpu", "--thought-tokens", "4", "--only", "drawing", "repeatability"]
    monkeypatch.setattr(sys, "argv", command)
    assert program.main() == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "always the same bits" in out
    monkeypatch.setattr(sys, "argv", [*command, "--minutes", "0"])
    assert program.main() == 1
    assert capsys.readouterr().out.count("left out") == 2


def test_random_weights_are_made_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = BagelShape(tiny_config())
    monkeypatch.setattr(subjects, "FAMILY", SimpleNamespace(released_shape=lambda: shape))
    monkeypatch.setenv("ALPHAGRPO_STORAGE", "/nowhere")
    config = subjects.load_config("deploy/configs/bagel-7b-rt2i.yaml")
    model = subjects._random_model(config, CPU)
    assert model.dtype == torch.bfloat16
    assert model.llm2vae.weight.dtype == torch.float32
    assert len(adapters(model)) == 14 * tiny_config().llm.num_hidden_layers
    context = model.empty_context(2)
    context, hidden = model.read_text(context, torch.ones(2, 5, dtype=torch.int64), torch.ones(2))
    assert bool(torch.isfinite(model.text_logits(hidden)).all())
    latents = torch.randn(2, 4, model.latent_channels)
    velocity = model.velocity(context, latents, torch.ones(2), (2, 2))
    assert math.isfinite(float(velocity.norm()))
    assert bool(torch.isfinite(model.decode_latents(latents, (2, 2))).all())
