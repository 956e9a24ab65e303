"""The parity command on a small folder of vectors made here: what it lets pass and what it misses.

The vectors say nothing about BAGEL itself; those of the released code are no part of the project.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from alphagrpo.errors import CheckpointError
from alphagrpo.models.bagel import parity
from alphagrpo.models.bagel.checkpoint import save_bagel
from alphagrpo.models.bagel.golden import Golden, cache, release_order
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.bagel.parity import main, run_case
from alphagrpo.models.unified import Context

Vectors = dict[str, tuple[Tensor, dict[str, Any]]]


def write(folder: Path, vectors: Vectors) -> None:
    """Tensors with what cases.json says of each."""
    tensors = {name: tensor.contiguous() for name, (tensor, _) in vectors.items()}
    save_file(tensors, folder / "cases.safetensors")
    cases = {"tensors": {name: info for name, (_, info) in vectors.items()}}
    (folder / "cases.json").write_text(json.dumps(cases))


def given(tensor: Tensor) -> tuple[Tensor, dict[str, Any]]:
    return tensor, {"role": "input"}


def output(tensor: Tensor, tol: float = 1e-5, **more: Any) -> tuple[Tensor, dict[str, Any]]:
    return tensor, {"role": "output", "tol": tol, **more}


def tables(model: Bagel) -> Vectors:
    """Case c0 and case c10, of this model and of the resize rule written out."""
    t, positions = torch.tensor([0.0, 0.5]), torch.tensor([0, 3])
    with torch.no_grad():
        wave = model.time_embedder.sinusoid(t)
        embedded = model.time_embedder(t)
    angles = positions[:, None] * 1e6 ** (-torch.arange(4) / 4)
    return {
        "c0.t": given(t),
        "c0.rope_pos": given(positions),
        "c0.t_sinusoid": output(wave),
        "c0.t_embed": output(embedded),
        "c0.rope_cos": output(torch.cat([angles, angles], dim=1).cos()),
        "c0.rope_sin": output(torch.cat([angles, angles], dim=1).sin()),
        "c10.wh": given(torch.tensor([[512, 512], [2048, 1024]])),
        "c10.vae_1024_512_16": output(torch.tensor([[512, 512], [1024, 512]])),
        "c10.small_1024_512_16": output(
            torch.tensor([[128, 128], [128, 64]]), meaning="max_pixels 16*16*256"
        ),
    }


@pytest.fixture
def folder(model: Bagel, tmp_path: Path) -> Path:
    save_bagel(model, tmp_path)
    write(tmp_path, tables(model))
    return tmp_path


def marks(text: str) -> dict[str, str]:
    """Verdict of each output in what the command printed."""
    rows = [line.split() for line in text.splitlines() if line.startswith("c")]
    return {row[0]: row[3] for row in rows}


def test_a_folder_that_agrees_passes_in_the_order_of_its_cases(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder)]) == 0
    text = capsys.readouterr().out
    assert list(marks(text)) == [
        *("c0.t_sinusoid", "c0.t_embed", "c0.rope_cos", "c0.rope_sin"),
        *("c10.vae_1024_512_16", "c10.small_1024_512_16"),
    ]
    assert set(marks(text).values()) == {"ok"}
    assert "6 of 6 outputs agree, 0 miss" in text


def test_one_miss_fails_the_command_unless_another_case_is_asked_for(
    model: Bagel, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = tables(model)
    vectors["c0.t_embed"][0][1, 5] += 2e-5
    write(folder, vectors)
    assert main([str(folder)]) == 1
    assert [k for k, v in marks(capsys.readouterr().out).items() if v == "MISS"] == ["c0.t_embed"]
    assert main([str(folder), "--case", "c10"]) == 0
    assert set(marks(capsys.readouterr().out)) == {"c10.vae_1024_512_16", "c10.small_1024_512_16"}


@pytest.mark.parametrize("name", ["c0.new", "c99.new"])
def test_an_output_that_no_case_computes_is_a_miss(
    model: Bagel, folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, tables(model) | {name: output(torch.zeros(2))})
    assert main([str(folder)]) == 1
    text = capsys.readouterr().out
    assert [k for k, v in marks(text).items() if v == "MISS"] == [name]
    assert f"1 miss, of which not covered: {name}" in text


def test_a_case_that_fails_is_told_and_the_others_go_on(
    model: Bagel, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = tables(model)
    del vectors["c0.rope_pos"]
    write(folder, vectors)
    assert main([str(folder)]) == 1
    text = capsys.readouterr().out
    assert [k for k, v in marks(text).items() if v == "ok"] == [k for k in vectors if "024_" in k]
    assert "not covered: KeyError: 'c0.rope_pos'" in text


def test_a_folder_without_outputs_agrees_with_nothing(folder: Path) -> None:
    write(folder, {"c0.t": given(torch.zeros(1))})
    assert main([str(folder)]) == 1


def verdict(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: Tensor,
    got: Tensor,
    name: str = "c0.x",
    tol: float = 0.1,
) -> bool:
    write(folder, {name: output(expected, tol)})
    monkeypatch.setitem(parity.CASES, "c0", lambda golden: {name: got})
    (one,) = run_case(Golden(folder), "c0")
    return one.passed


def test_floats_may_miss_by_their_tolerance_and_whole_numbers_by_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.tensor([1.0, -2.0, float("-inf")])
    off = torch.tensor([0.09, -0.09, 0.0])
    assert verdict(folder, monkeypatch, x, x + off)
    assert not verdict(folder, monkeypatch, x, x + 1.3 * off)
    assert not verdict(folder, monkeypatch, x, x * float("nan"))
    assert not verdict(folder, monkeypatch, x, x[:2])
    assert not verdict(folder, monkeypatch, x[:2], torch.tensor([[1.0, -2.0]]))
    whole = torch.tensor([5, 6])
    assert verdict(folder, monkeypatch, whole, whole.clone(), tol=2.0)
    assert not verdict(folder, monkeypatch, whole, whole + 1, tol=2.0)


def test_a_few_bytes_may_be_off_by_one_and_none_by_two(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.full((10, 10, 3), 100, dtype=torch.uint8)

    def changed(count: int, by: int) -> Tensor:
        other = pixels.clone()
        other.view(-1)[:count] += by
        return other

    def passes(got: Tensor) -> bool:
        return verdict(folder, monkeypatch, pixels, got, "c0.uint8")

    assert passes(changed(3, 1))
    assert not passes(changed(4, 1))
    assert not passes(changed(1, 2))


def test_each_gradient_norm_is_compared_with_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = torch.tensor([100.0, 1.0, 0.0])

    def passes(*off: float) -> bool:
        return verdict(folder, monkeypatch, norms, norms + torch.tensor(off), "c0.grad_norms")

    assert passes(0.09, 0.0015, 0.0009)
    assert not passes(0.12, 0.0, 0.0)
    assert not passes(0.0, 0.003, 0.0)
    assert not passes(0.0, 0.0, 0.002)


def test_a_folder_whose_files_disagree_or_are_cut_is_refused(
    model: Bagel, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "cases.safetensors"
    tensors = load_file(path)
    for stray in ({"c0.odd": torch.zeros(1)}, {}):
        save_file({k: v for k, v in (tensors | stray).items() if stray or k != "c0.t"}, path)
        with pytest.raises(CheckpointError, match=r"\['c0\.(odd|t)'\] are in one of them only"):
            Golden(folder)
    path.write_bytes(path.read_bytes()[:50])
    assert main([str(folder)]) == 2
    assert "whole cases.safetensors" in capsys.readouterr().err


def test_an_output_is_not_given_as_an_input(folder: Path) -> None:
    golden = Golden(folder)
    assert golden["c0.rope_pos"].tolist() == [0, 3]
    with pytest.raises(LookupError, match=r"c0\.t_embed is an output to be reproduced"):
        golden["c0.t_embed"]


def test_image_blocks_are_put_into_the_order_of_the_release() -> None:
    rows = torch.arange(5)[:, None]
    assert release_order(rows)[:, 0].tolist() == [0, 2, 3, 4, 1]
    keys = torch.arange(10.0).view(1, 10, 1, 1)
    context = Context((keys,), (keys + 100,), torch.ones(1, 10, dtype=torch.bool), torch.zeros(1))
    cached = cache("c", context, start=1, images=[3, 4])
    assert cached["c.layer0.k"].flatten().tolist() == [1, 3, 2, 4, 6, 7, 5, 8, 9]
    assert (cached["c.layer0.v"] == cached["c.layer0.k"] + 100).all()
