"""Guidance and SDE steps against the golden vectors of the released code (cases c4f and c8)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from alphagrpo.flow import cps_step, guide, sde_step, shifted_times, transition_log_prob

REPO = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("ALPHAGRPO_GOLDEN", REPO / ".." / "shared" / "golden" / "bagel"))

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(
        not (FOLDER / "cases.safetensors").exists(),
        reason="golden vectors absent; set ALPHAGRPO_GOLDEN to their folder",
    ),
]


@pytest.fixture(scope="module")
def cases() -> dict[str, Tensor]:
    return load_file(FOLDER / "cases.safetensors")


@pytest.fixture(scope="module")
def tolerances() -> dict[str, float]:
    tensors = json.loads((FOLDER / "cases.json").read_text())["tensors"]
    return {name: entry["tol"] for name, entry in tensors.items() if "tol" in entry}


def assert_golden(got: Tensor, name: str, cases: dict[str, Tensor], tol: dict[str, float]) -> None:
    difference = (got - cases[name]).abs().max().item()
    assert difference <= tol[name], f"{name}: off by {difference}, allowed {tol[name]}"


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_guidance_formula_c4f(renorm, cases, tolerances):
    cond, image = cases["c4f.v_cond"][None], cases["c4f.v_img"][None]
    texts = (cases["c4f.v_text"][None], cases["c4f.v_text_b"][None])
    rows = [
        guide(
            cond,
            texts[int(branch)],
            image,
            text_scale=text_scale,
            image_scale=image_scale,
            renorm=renorm,
            renorm_min=renorm_min,
        )[0]
        for branch, text_scale, image_scale, renorm_min in cases["c4f.cases"].tolist()
    ]
    assert_golden(torch.stack(rows), f"c4f.{renorm}", cases, tolerances)


@pytest.mark.parametrize("name", ["sde_0.7", "sde_1.3"])
def test_sde_step_c8(name, cases, tolerances):
    times = cases["c8.timesteps"].tolist()
    x, v = cases["c8.x_t"][None], cases["c8.v"][None]
    got: dict[str, list[Tensor]] = {
        k: [] for k in ("prev_sample", "prev_sample_mean", "std", "log_prob", "log_prob_other")
    }
    for i in cases["c8.step_index"].tolist():
        x_next, mean, std = sde_step(
            x,
            v,
            times[i],
            times[i + 1],
            cases["c8.noise"][None],
            noise_level=float(name.split("_")[1]),
            t_second=times[1],
        )
        dt = times[i + 1] - times[i]
        other = mean + 0.1 * cases["c8.other"][None]
        got["prev_sample"].append(x_next[0])
        got["prev_sample_mean"].append(mean[0])
        got["std"].append(std)
        got["log_prob"].append(transition_log_prob(x_next, mean, std, dt)[0])
        got["log_prob_other"].append(transition_log_prob(other, mean, std, dt)[0])
    for what, values in got.items():
        assert_golden(torch.stack(values), f"c8.{name}.{what}", cases, tolerances)


@pytest.mark.parametrize("name", ["cps_0.7", "cps_0.95"])
def test_cps_step_c8(name, cases, tolerances):
    times = cases["c8.timesteps"].tolist()
    x, v = cases["c8.x_t"][None], cases["c8.v"][None]
    steps = [
        cps_step(
            x,
            v,
            times[i],
            times[i + 1],
            cases["c8.noise"][None],
            noise_level=float(name.split("_")[1]),
        )
        for i in cases["c8.step_index"].tolist()
    ]
    for what, values in zip(
        ("prev_sample", "prev_sample_mean"), zip(*steps, strict=True), strict=False
    ):
        assert_golden(torch.cat(values), f"c8.{name}.{what}", cases, tolerances)
    assert_golden(torch.stack([s[2] for s in steps]), f"c8.{name}.std", cases, tolerances)


def test_schedule_is_the_released_one(cases):
    assert torch.allclose(shifted_times(8, 3.0), cases["c8.timesteps"], atol=1e-6, rtol=0)
