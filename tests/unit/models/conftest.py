from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from alphagrpo.models.bagel.checkpoint import random_bagel
from alphagrpo.models.bagel.config import tiny_config
from alphagrpo.models.bagel.model import Bagel


def noisy_bagel(seed: int = 0) -> Bagel:
    """Random everywhere: biases and norms too, so that a mix-up of experts or terms shows."""
    model = random_bagel(tiny_config(), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def model() -> Bagel:
    return noisy_bagel()


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    default = Path(__file__).parents[3] / ".." / "shared" / "golden" / "bagel"
    folder = Path(os.environ.get("ALPHAGRPO_GOLDEN", default))
    if not (folder / "cases.json").exists():
        pytest.skip("no golden vectors here; set ALPHAGRPO_GOLDEN to their folder")
    return folder
