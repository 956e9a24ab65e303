from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alphagrpo.models.bagel.golden import Golden
from alphagrpo.models.bagel.parity import main, run_all, run_case

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def golden(golden_folder: Path) -> Golden:
    torch.set_num_threads(1)
    return Golden(golden_folder)


def test_every_output_of_the_golden_folder_agrees(golden: Golden) -> None:
    verdicts = list(run_all(golden))
    assert [v.name for v in verdicts if not v.passed] == []
    assert sorted(v.name for v in verdicts) == sorted(golden.outputs())


def test_a_golden_output_cannot_be_used_as_an_input(golden: Golden) -> None:
    with pytest.raises(LookupError, match="output to be reproduced"):
        golden["c1.prefill_hidden"]


def test_command_reports_a_miss_and_an_uncovered_case(
    golden_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "golden"
    shutil.copytree(golden_folder, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    tensors = load_file(folder / "cases.safetensors")
    tensors["c0.t_embed"] += 1e-3
    tensors["c99.new"] = torch.zeros(2)
    cases = json.loads((folder / "cases.json").read_text())
    cases["tensors"]["c99.new"] = {"role": "output", "tol": 1e-5}
    save_file(tensors, folder / "cases.safetensors")
    (folder / "cases.json").write_text(json.dumps(cases))

    assert main([str(folder), "--case", "c0", "--case", "c99"]) == 1
    out = capsys.readouterr().out
    missed = {line.split()[0] for line in out.splitlines() if "MISS" in line}
    assert missed == {"c0.t_embed", "c99.new"}
    assert "not covered: c99.new" in out
    assert main([str(folder), "--case", "c10"]) == 0


def test_nan_is_a_miss(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    from alphagrpo.models.bagel import parity

    monkeypatch.setitem(
        parity.CASES, "c0", lambda g: {"c0.t_embed": g.expected("c0.t_embed") * float("nan")}
    )
    verdicts = {v.name: v for v in run_case(golden, "c0")}
    assert not verdicts["c0.t_embed"].passed
    assert not verdicts["c0.rope_cos"].passed


def test_command_refuses_a_folder_without_vectors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "llm_config.json" in capsys.readouterr().err
